import type { Profile } from "../container/seccomp/profile.ts";

/**
 * What QEMU calls from the moment the runtime hands over to it: start, woken clone, disks, channel, end. Found by tracing,
 * then taken away one by one. It opens no socket, starts no program and changes no ids.
 */
const ALLOWED = {
  files: `
    read write readv writev pread64 pwrite64 preadv pwritev openat close lseek newfstatat readlink access fcntl ioctl
    fdatasync fallocate ftruncate fadvise64
  `,
  memory: "mmap munmap mprotect madvise brk mremap",
  waiting: "poll ppoll futex eventfd2 epoll_create1 signalfd4 clock_nanosleep restart_syscall",
  signals: "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait sigaltstack tgkill",
  processes: `
    execve exit exit_group gettid getpid set_tid_address set_robust_list rseq arch_prctl prctl prlimit64
    sched_getaffinity sched_yield getrandom clock_gettime sysinfo
  `,
};

/** Threads only: all of what pthread_create asks for, none of what makes a process or a namespace. */
const CLONE_THREAD_FLAGS = 0x003d0f00;
const ALL_BITS = 0xffffffff;

export const VMM_PROFILE: Profile = {
  name: "bulkhead-vmm-1",
  allowed: Object.values(ALLOWED).flatMap((names) => names.trim().split(/\s+/)),
  conditional: [{ name: "clone", alternatives: [[{ index: 0, mask: ALL_BITS, value: CLONE_THREAD_FLAGS }]] }],
  pretended: [],
  absent: ["clone3"],
};

/** Calls that reach the host's kernel from a VMM that was taken over. */
export const VMM_CALLS = VMM_PROFILE.allowed.length + VMM_PROFILE.conditional.length;
