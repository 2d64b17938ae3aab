/** The attack programs, in the order they run: `lib.py` first, each file's attacks by name. */
export const PROGRAM_FILES = ["lib.py", "files.py", "kernel.py", "calls.py", "reach.py"] as const;

/** Every attack: the name it has in its program, and what is tried. */
export const ATTACKS = {
  "host-file": "a file of the host by its path, as it is and below /proc/<pid>/root",
  "cwd-leak": "CVE-2024-21626: a working directory that was left outside, and `..` from there",
  "fd-leak": "CVE-2016-9962: a descriptor of something outside that was left open",
  "self-exe": "CVE-2019-5736: writing to the host's program through /proc/<pid>/exe",
  "chroot-escape": "a second chroot below the working directory",
  "open-by-handle": "open_by_handle_at (shocker): a file of the host by its number on the disk",
  "proc-root": "root, working directory, descriptors and environment of a process of the host",
  setns: "setns into the mount namespace of a process of the host",
  "core-pattern": "core_pattern: a handle for writing",
  "modprobe-path": "modprobe path: a handle for writing",
  "uevent-helper": "uevent_helper and hotplug: a handle for writing",
  sysrq: "sysrq: a handle for writing",
  "binfmt-misc": "binfmt_misc: a handle for registering an interpreter",
  "kernel-settings": "settings of the host's kernel: a handle for writing",
  "release-agent": "CVE-2022-0492: release_agent, present, mounted anew, and from a user namespace",
  "cgroup-limits": "the limits and devices of its own control group: a handle for writing",
  "fresh-proc": "CVE-2019-19921, CVE-2025-52881: another /proc, without masks",
  masks: "CVE-2025-31133, CVE-2025-52565: what masks hide, also with them taken off",
  "kernel-layout": "command line, types, symbols and configuration of the host's kernel",
  "kernel-log": "the kernel's log",
  "mem-device": "memory, ports and registers through device nodes it makes",
  "block-device": "a disk of the host through a device node it makes",
  "userns-nftables": "CVE-2024-1086: nf_tables as root of a user namespace",
  "userns-clone3": "namespace flags inside clone3's structure",
  "userns-unshare": "a user namespace by unshare and by clone",
  "io-uring": "CVE-2022-29582, CVE-2023-2598: io_uring",
  aio: "asynchronous I/O of the old kind",
  bpf: "CVE-2021-3490, CVE-2022-23222: bpf",
  "perf-events": "CVE-2023-6931: perf_event_open",
  userfaultfd: "userfaultfd",
  keyring: "a key of the host's, by name and by number",
  "af-alg": "CVE-2026-31431: AF_ALG",
  "af-vsock": "AF_VSOCK, which is in no namespace",
  "af-packet": "CVE-2020-14386: AF_PACKET",
  int80: "the 32-bit entry of the kernel",
  "int80-sockets": "AF_VSOCK and AF_ALG through the 32-bit entry",
  x32: "the x32 numbers",
  "modify-ldt": "CVE-2014-4699: modify_ldt",
  ptrace: "ptrace of a process of the host",
  "process-memory": "process_vm_readv of a process of the host",
  pidfd: "pidfd_getfd: a descriptor out of a process of the host",
  signal: "a signal to a process of the host",
  "abstract-socket": "CVE-2020-15257: an abstract socket of the host",
  loopback: "CVE-2020-8558: what listens on the host's loopback",
  "host-address": "what listens on an address of the host's",
  metadata: "the metadata service at 169.254.169.254",
  "shared-memory": "System V shared memory of the host",
  "message-queue": "a POSIX message queue of the host",
} as const;

export type Attack = keyof typeof ATTACKS;

export const ALL_ATTACKS = Object.keys(ATTACKS) as readonly Attack[];

/** Where they run: the control, which has to fall, and every driver, which must not. */
export const CONTROL = "control";
export const DRIVERS = ["container/crun", "container/runc", "gvisor/runsc", "microvm/qemu"] as const;
