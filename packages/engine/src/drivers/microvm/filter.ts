import type { ConditionalCall, Profile } from "../container/seccomp/profile.ts";

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

/** What the guest may do to the host directories it was given. */
export type Sharing = "none" | "read" | "write";

/**
 * QEMU's server of host directories works on names below open directories and follows no link. It makes files, directories
 * and links: no devices, and no FIFOs and sockets, which it would not open either. To give a file to another owner it would
 * need a capability.
 */
const SHARING_READ = "getdents64 fstatfs readlinkat lgetxattr llistxattr";
const SHARING_WRITE = "mkdirat symlinkat linkat renameat unlinkat fchownat utimensat ftruncate fsync";
/** S_ISUID and S_ISGID, from linux/stat.h. */
const SET_IDS = 0o6000;
/**
 * What a guest makes never runs on the host as its owner or group: these bits are refused where modes are given, whatever
 * QEMU has become. Where no file is made the mode is 0.
 */
const SHARING_CONDITIONS: readonly ConditionalCall[] = [
  { name: "openat", alternatives: [[{ index: 3, mask: SET_IDS, value: 0 }]] },
  { name: "chmod", alternatives: [[{ index: 1, mask: SET_IDS, value: 0 }]] },
];

/** Threads only: all of what pthread_create asks for, none of what makes a process or a namespace. */
const CLONE_THREAD_FLAGS = 0x003d0f00;
const ALL_BITS = 0xffffffff;

const words = (text: string): readonly string[] => text.trim().split(/\s+/);

/** The filter of a VMM that uses KVM or that emulates, and that serves no host directory, or some. */
export function vmmProfile(kvm: boolean, sharing: Sharing = "none"): Profile {
  const conditions = sharing === "write" ? SHARING_CONDITIONS : [];
  const allowed = [
    ...Object.values(ALLOWED).flatMap(words),
    ...(kvm ? KVM_ALLOWED : []),
    ...(sharing === "none" ? [] : words(SHARING_READ)),
    ...(sharing === "write" ? words(SHARING_WRITE) : []),
  ];
  const suffix = sharing === "none" ? "" : `-${sharing}`;
  return {
    name: `bulkhead-vmm-${kvm ? "kvm" : "tcg"}${suffix}-1`,
    allowed: allowed.filter((name) => !conditions.some((condition) => condition.name === name)),
    conditional: [
      { name: "clone", alternatives: [[{ index: 0, mask: ALL_BITS, value: CLONE_THREAD_FLAGS }]] },
      ...conditions,
    ],
    pretended: [],
    // The older chmod is the one whose mode is judged above.
    absent: ["clone3", "fchmodat2"],
  };
}

/** How many calls reach the host's kernel from a VMM that was taken over. */
export function reachableCalls({ allowed, conditional }: Profile): number {
  return allowed.length + conditional.length;
}
