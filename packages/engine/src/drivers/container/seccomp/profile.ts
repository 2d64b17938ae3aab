/**
 * The system calls that exist inside a container. An allow-list: near what container engines allow by default, less what
 * serves escapes more than programs: io_uring, aio, keyrings, bpf, perf, userfaultfd, ptrace and reading other processes,
 * System V IPC and POSIX queues, real-time scheduling, page-cache spying (mincore), NUMA and protection keys, file
 * handles, LDTs, 32-bit calls.
 */

const ALLOWED = {
  /** Files and directories. mknod is needed for FIFOs; devices are stopped by the missing capability. */
  files: `
    read write open close stat fstat lstat lseek pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2
    access faccessat faccessat2 openat openat2 creat newfstatat statx readlink readlinkat getdents getdents64
    getcwd chdir fchdir rename renameat renameat2 mkdir mkdirat rmdir link linkat unlink unlinkat symlink symlinkat
    chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat umask truncate ftruncate fallocate fsync fdatasync
    sync syncfs sync_file_range utime utimes utimensat futimesat statfs fstatfs flock fcntl ioctl dup dup2 dup3
    sendfile splice copy_file_range fadvise64 mknod mknodat setxattr lsetxattr fsetxattr getxattr
    lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr memfd_create
    close_range inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
  `,
  memory: `
    mmap mprotect munmap brk mremap msync madvise mlock mlock2 munlock membarrier
  `,
  processes: `
    fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill getpid getppid gettid getpgid getpgrp
    setpgid getsid setsid set_tid_address set_robust_list restart_syscall rseq arch_prctl prctl
    uname sysinfo getrusage times getrlimit setrlimit prlimit64 getpriority setpriority sched_yield
    sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler
    sched_get_priority_max sched_get_priority_min getcpu capget
    capset pidfd_open pidfd_send_signal getrandom
  `,
  /** A process may always restrain itself further. */
  restraints: `
    seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
  `,
  identities: `
    getuid geteuid getgid getegid setuid setgid setreuid setregid setresuid getresuid setresgid getresgid
    getgroups setgroups
  `,
  signals: `
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigqueueinfo
    rt_sigsuspend sigaltstack pause signalfd signalfd4 alarm getitimer setitimer
  `,
  time: `
    nanosleep clock_gettime clock_getres clock_nanosleep gettimeofday time timer_create timer_settime timer_gettime
    timer_getoverrun timer_delete timerfd_create timerfd_settime timerfd_gettime
  `,
  waiting: `
    poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd
    eventfd2 pipe pipe2 futex futex_waitv
  `,
  /** Which families may be opened is a condition below. */
  sockets: `
    socketpair connect accept accept4 bind listen shutdown getsockname getpeername setsockopt getsockopt sendto
    recvfrom sendmsg recvmsg sendmmsg recvmmsg
  `,
};

/** One argument, compared as the kernel sees an `int`: its low 32 bits. */
export interface ArgumentTest {
  readonly index: 0 | 1 | 2 | 3 | 4 | 5;
  /** The test holds if `(argument & mask) === value`. */
  readonly mask: number;
  readonly value: number;
}

/** Allowed when every test of at least one alternative holds. */
export interface ConditionalCall {
  readonly name: string;
  readonly alternatives: readonly (readonly ArgumentTest[])[];
}

/** Refused with this error number when all tests hold, instead of EPERM. */
export interface Pretence {
  readonly name: string;
  readonly tests: readonly ArgumentTest[];
  readonly errno: number;
}

export interface Profile {
  readonly name: string;
  readonly allowed: readonly string[];
  readonly conditional: readonly ConditionalCall[];
  readonly pretended: readonly Pretence[];
  /** Pretended not to exist, so that libraries use the older call whose arguments a filter can see. */
  readonly absent: readonly string[];
}

const ALL_BITS = 0xffffffff;
/** CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET, from linux/sched.h. */
const CLONE_NAMESPACES = 0x7e020000;
const AF_UNIX = 1;
const AF_INET = 2;
const AF_INET6 = 10;
const AF_NETLINK = 16;
const NETLINK_ROUTE = 0;
const NETLINK_AUDIT = 9;
const EAFNOSUPPORT = 97;
/** personality(2): the default, and the question what it is. */
const PERSONALITIES = [0, 0xffffffff];

const equals = (index: ArgumentTest["index"], value: number): ArgumentTest => ({ index, mask: ALL_BITS, value });

export const PROFILE: Profile = {
  name: "bulkhead-container-1",
  allowed: Object.values(ALLOWED).flatMap((names) => names.trim().split(/\s+/)),
  conditional: [
    { name: "clone", alternatives: [[{ index: 0, mask: CLONE_NAMESPACES, value: 0 }]] },
    {
      name: "socket",
      alternatives: [
        [equals(0, AF_UNIX)],
        [equals(0, AF_INET)],
        [equals(0, AF_INET6)],
        // Name resolution and `ip` ask for addresses through it.
        [equals(0, AF_NETLINK), equals(2, NETLINK_ROUTE)],
      ],
    },
    { name: "personality", alternatives: PERSONALITIES.map((value) => [equals(0, value)]) },
  ],
  // PAM takes "no audit in this kernel" for an answer, but fails a login (su, sudo) when audit is merely forbidden.
  pretended: [{ name: "socket", tests: [equals(0, AF_NETLINK), equals(2, NETLINK_AUDIT)], errno: EAFNOSUPPORT }],
  absent: ["clone3", "futex_wake", "futex_wait", "futex_requeue", "mseal"],
};
