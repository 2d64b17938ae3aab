/**
 * Capabilities of process 1 and of root inside, scoped to the sandbox's user namespace: what package managers need, and
 * CAP_SETPCAP, with which the agent takes all of them (the bounding set too) from other users' processes.
 */
export const ROOT_CAPABILITIES = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_FOWNER",
  "CAP_SETUID",
  "CAP_SETGID",
  "CAP_KILL",
  "CAP_NET_BIND_SERVICE",
  "CAP_SETPCAP",
] as const;

/** Kernel internals, addresses, the host's hardware, its file locks and its command line. Absent ones are skipped by the runtimes. */
export const MASKED_PATHS = [
  "/proc/acpi",
  "/proc/asound",
  "/proc/buddyinfo",
  "/proc/cmdline",
  "/proc/config.gz",
  "/proc/crypto",
  "/proc/interrupts",
  "/proc/iomem",
  "/proc/ioports",
  "/proc/kallsyms",
  "/proc/kcore",
  "/proc/key-users",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/locks",
  "/proc/modules",
  "/proc/sched_debug",
  "/proc/scsi",
  "/proc/slabinfo",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/proc/vmallocinfo",
  "/sys/devices/virtual/powercap",
  "/sys/firmware",
  "/sys/kernel",
  "/sys/module",
] as const;

export const READ_ONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"] as const;

const MIB = 1024 * 1024;
export const SHM_BYTES = 64 * MIB;
/** Holds a few device nodes and links only. */
export const DEV_BYTES = 64 * 1024;
/** Pseudo-terminals come out of one pool of the host (4,096 by default). */
export const MAX_PTYS = 256;

/** Descriptors of one program where nothing is asked for, below what the host's own hard limit allows. */
export const OPEN_FILES = 32_768;

/** Quota period of the CPU controller, µs: the kernel's default. */
export const CPU_PERIOD_US = 100_000;

/** The agent and its helper threads, on top of the processes asked for. */
export const HOST_TASK_OVERHEAD = 4;
