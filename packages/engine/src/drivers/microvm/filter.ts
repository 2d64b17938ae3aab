import type { Profile } from "../container/seccomp/profile.ts";

/**
 * What QEMU calls from the moment the runtime hands over to it: start, woken clone, disks, channel, end. Found by tracing,
 * and by taking away each alone: without it a clone does not start or work, or it would spin (clock_nanosleep), or the call
 * belongs to a path that a quiet run does not take (discards, vectored disk access, signals, growing heaps, a clock that the
 * kernel does not map). It opens no socket, starts no program and changes no ids.
 */
const ALLOWED = {
  files: `
    read write readv writev pread64 pwrite64 preadv pwritev openat close lseek newfstatat access fcntl fdatasync
    fallocate fadvise64
  `,
  memory: "mmap munmap mprotect madvise brk mremap",
  waiting: "poll ppoll futex eventfd2 epoll_create1 signalfd4 clock_nanosleep restart_syscall",
  signals: "rt_sigaction rt_sigprocmask rt_sigreturn tgkill",
  processes: `
    execve exit exit_group gettid set_tid_address arch_prctl prlimit64 sched_getaffinity sched_yield getrandom
    clock_gettime
  `,
};
/**
 * KVM is driven by ioctl, and a processor's thread woken by pthread_kill, which asks for the process's id. QEMU asks uname
 * whether the host has 64 bits, and saves no 64-bit registers (the entry of system calls among them) when it is not told.
 * Under emulation QEMU needs none of it.
 */
const KVM_ALLOWED = ["getpid", "ioctl", "uname"];

/** Threads only: all of what pthread_create asks for, none of what makes a process or a namespace. */
const CLONE_THREAD_FLAGS = 0x003d0f00;
const ALL_BITS = 0xffffffff;

/** The filter of a VMM that uses KVM or that emulates. */
export function vmmProfile(kvm: boolean): Profile {
  return {
    name: kvm ? "bulkhead-vmm-kvm-1" : "bulkhead-vmm-tcg-1",
    allowed: [...Object.values(ALLOWED).flatMap((names) => names.trim().split(/\s+/)), ...(kvm ? KVM_ALLOWED : [])],
    conditional: [{ name: "clone", alternatives: [[{ index: 0, mask: ALL_BITS, value: CLONE_THREAD_FLAGS }]] }],
    pretended: [],
    absent: ["clone3"],
  };
}

/** How many calls reach the host's kernel from a VMM that was taken over. */
export function reachableCalls({ allowed, conditional }: Profile): number {
  return allowed.length + conditional.length;
}
