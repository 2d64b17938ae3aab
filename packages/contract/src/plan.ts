import type { Level } from "./level.ts";
import type { NetworkPolicy } from "./network.ts";
import type { SecretPlace } from "./secrets.ts";

/** What the driver will enforce, in the field's terms. Printed by `explain`, hashed, later compared with measurements. */
export interface Boundary {
  readonly namespaces: readonly string[];
  readonly userNamespace: boolean;
  readonly noNewPrivileges: boolean;
  /** Capabilities of process 1 and of processes run as root inside; scoped to the sandbox's user namespace or kernel. */
  readonly capabilitiesRoot: readonly string[];
  /** Capabilities that process 1 has besides while it sets the sandbox up, and gives up before anything else runs. */
  readonly setupCapabilities?: readonly string[];
  /** Device nodes of the host besides those that every sandbox has. */
  readonly devices?: readonly string[];
  /** Capabilities of processes run as any other user. */
  readonly capabilitiesUser: readonly string[];
  /** Name and digest of the system-call filter, or null where the sandbox kernel takes its place. */
  readonly seccomp: { readonly name: string; readonly digest: string; readonly precompiled: boolean } | null;
  /** The profile that was given, put on every program besides the above: what it says, as far as it is narrower. */
  readonly givenSeccomp?: GivenSeccomp;
  readonly maskedPaths: readonly string[];
  readonly readOnlyPaths: readonly string[];
  readonly kernel: "shared" | "sentry" | "guest";
  /** Security modules of the host's kernel that confine the sandbox besides all this. Absent where its kernel is its own. */
  readonly securityModules?: readonly SecurityModule[];
  /** The jail around the program that makes the sandbox's virtual machine; absent where there is none. */
  readonly monitor?: MonitorJail;
  /** Everything the user asked for that weakens the default, each in words. Empty for a default sandbox. */
  readonly weakened: readonly string[];
}

export type SecurityModule =
  /** What process 1 gives up for itself and all that it starts, in words. */
  | { readonly name: "landlock"; readonly version: number; readonly denies: readonly string[] }
  /** `ours` is loaded when it is not; another one is what Bulkhead itself is held to. */
  | { readonly name: "apparmor"; readonly profile: string; readonly ours: boolean };

export interface GivenSeccomp {
  readonly name: string;
  /** sha256 of the compiled program, hex. */
  readonly digest: string;
  /** How many system calls it lets through, and how many of them not with all arguments. */
  readonly calls: number;
  readonly byArgument: number;
  /** Names in it that no kernel has. */
  readonly unknown: readonly string[];
}

export interface MonitorJail {
  readonly accelerator: "kvm" | "tcg";
  readonly namespaces: readonly string[];
  readonly capabilities: readonly string[];
  /** Its own filter, and how many of the host's system calls that lets through. */
  readonly seccomp: { readonly name: string; readonly digest: string };
  readonly reachableCalls: number;
  /** The guest's memory and what the monitor needs besides. */
  readonly memoryBytes: number;
  readonly tasks: number;
}

export interface Limits {
  readonly cpus: number | null;
  readonly memoryBytes: number | null;
  readonly pids: number;
  readonly diskBytes: number;
  readonly diskInodes: number;
  readonly timeoutMs: number | null;
  /** Share among the busy, 1 to 10,000 where everybody else has 100; null leaves it at that. */
  readonly cpuWeight: number | null;
  /** Operations and bytes a second, each for reading and for writing. */
  readonly diskIops: number | null;
  readonly diskBytesPerSecond: number | null;
  /** Who holds disk traffic to those two; null where neither was asked for. */
  readonly diskThrottle: DiskThrottle | null;
  /** Descriptors of one program, soft and hard. */
  readonly openFiles: number;
  /** Without output, input or a call for this long the sandbox is ended. */
  readonly idleTimeoutMs: number | null;
  /** Of a program's stdout and stderr together; at the limit it is killed. */
  readonly outputMaxBytes: number | null;
}

export type DiskThrottle =
  /** The host's kernel, on each of these block devices by itself. */
  | { readonly by: "cgroup"; readonly devices: readonly BlockDevice[] }
  /** The virtual machine's monitor, on all of the guest's disks together. */
  | { readonly by: "monitor" };

export interface BlockDevice {
  readonly major: number;
  readonly minor: number;
  /** What is read from or written to it: `/var/lib/bulkhead/images`. */
  readonly holds: readonly string[];
}

export interface WritableLayer {
  /** A file on the host's disk, or memory, which counts as the sandbox's. */
  readonly backing: "file" | "memory";
  /** The name under which it stays after the end; null where it is thrown away. */
  readonly keep: string | null;
}

export interface MountPlan {
  readonly source: string;
  readonly target: string;
  readonly readOnly: boolean;
  /** Whose the source is outside. */
  readonly owner: { readonly uid: number; readonly gid: number };
  /** What is mounted is a volume of that name, whose files are in `source`; absent for a path of the host's. */
  readonly volume?: { readonly name: string; readonly shared: boolean };
}

export interface IdMap {
  readonly idBase: number;
  readonly size: number;
  readonly uid?: IdExchange;
  readonly gid?: IdExchange;
}

export interface IdExchange {
  readonly file: number;
  readonly seen: number;
}

/** One thing the keeper acquires. Undone in reverse order at teardown, also after a crash. Paths are host paths. */
export type Step =
  | { readonly op: "dir"; readonly path: string; readonly mode: number; readonly uid?: number; readonly gid?: number }
  | {
      readonly op: "file";
      readonly path: string;
      readonly mode: number;
      readonly content: string;
      readonly uid?: number;
      readonly gid?: number;
    }
  | { readonly op: "fifo"; readonly path: string; readonly mode: number; readonly uid?: number; readonly gid?: number }
  /** A size-bound tmpfs, nodev,nosuid. */
  | {
      readonly op: "tmpfs";
      readonly target: string;
      readonly sizeBytes: number;
      readonly inodes: number;
      readonly mode: number;
      readonly uid: number;
      readonly gid: number;
    }
  /**
   * A read-only or read-write bind of `source`, ids shifted so that file uid 0 appears as `idBase` when it is given. A
   * pair of ids trades places: `file` appears as `idBase + seen`.
   */
  | {
      readonly op: "bind";
      readonly source: string;
      readonly target: string;
      readonly readOnly: boolean;
      /** Nothing in it is ever started: noexec,nosuid. */
      readonly inert?: boolean;
      readonly idmap?: IdMap;
    }
  /**
   * The file system of a volume in place of a bind, nodev,nosuid. `source` is the volume's directory. Fails with EWOULDBLOCK
   * where it is used by others in a way that does not go with this one.
   */
  | {
      readonly op: "volume";
      readonly source: string;
      readonly target: string;
      readonly readOnly: boolean;
      readonly shared: boolean;
      readonly inert?: boolean;
      readonly idmap?: IdMap;
    }
  /**
   * The ext4 in the file at `path`, nodev,nosuid, ids shifted so that file uid 0 appears as the first of the sandbox's range:
   * with `keep` that file itself, which nobody else has at the time; otherwise a nameless copy, gone with its last user.
   */
  | {
      readonly op: "disk";
      readonly target: string;
      readonly path: string;
      readonly maxBytes: number;
      readonly keep: boolean;
    }
  | {
      readonly op: "overlay";
      readonly target: string;
      readonly lower: readonly string[];
      readonly upper: string;
      readonly work: string;
      /** Nobody reads it after the end: programs that wait for the disk do not. Otherwise it is whole without the lower ones. */
      readonly volatile?: boolean;
    }
  /**
   * Shows, as a file a runtime can join, the user namespace of the sandbox's id range. It is owned by the range's first
   * id: a runtime's own would be owned by root, and what a sandbox uses up of per-user quotas would be root's.
   */
  | { readonly op: "userns"; readonly target: string }
  /** A directory with a node `tun` of the device that makes interfaces, which only the sandbox's own root may open. */
  | { readonly op: "tun"; readonly target: string }
  /** Registers a control group by its path below each controller; undo kills what is in it and removes it. */
  | { readonly op: "cgroup"; readonly path: string }
  /** Runs a program to its end; a non-zero exit fails the step with the tail of its standard error. */
  | {
      readonly op: "run";
      readonly argv: readonly string[];
      readonly cwd?: string;
      readonly env?: Readonly<Record<string, string>>;
      /** Paths opened for the child's standard streams; absent means /dev/null, stderr captured. */
      readonly stdin?: string;
      readonly stdout?: string;
      readonly stderr?: string;
      /** What the program inherits besides, by numbers from 3. */
      readonly fds?: readonly InheritedFd[];
      readonly timeoutMs: number;
      /** After success, the pid in this file is followed: its end is reported as the sandbox's end. */
      readonly pidFile?: string;
    };

export type InheritedFd =
  /** A FIFO of the sandbox's own, opened without waiting for its other end; `content` is put into it first. */
  | {
      readonly fd: number;
      readonly from: "fifo";
      readonly path: string;
      readonly access: "write" | "both";
      readonly content?: string;
    }
  /** A file of the host, for reading. */
  | { readonly fd: number; readonly from: "file"; readonly path: string }
  /**
   * A copy of a file in memory that nobody can change any more, made once for all that use it at a time, and kept until the
   * keeper's end where `keep` says so.
   */
  | { readonly fd: number; readonly from: "sealed"; readonly path: string; readonly keep: boolean }
  /** A nameless copy of a file, beside it, for reading and writing; gone with its last holder. */
  | { readonly fd: number; readonly from: "copy"; readonly path: string; readonly maxBytes: number }
  /** A writable layer that is kept, for reading and writing; nobody else has it at the time. */
  | { readonly fd: number; readonly from: "kept"; readonly path: string; readonly maxBytes: number };

export interface Plan {
  readonly version: 1;
  readonly level: Level;
  readonly driver: string;
  readonly runtime: { readonly name: string; readonly path: string; readonly version: string; readonly digest: string };
  readonly image: {
    readonly reference: string;
    readonly digest: string;
    /** What it says of itself, for people: nothing follows from it unless it is asked for. */
    readonly exposedPorts: readonly string[];
    readonly volumes: readonly string[];
    readonly labels: Readonly<Record<string, string>>;
  };
  readonly boundary: Boundary;
  readonly limits: Limits;
  /** Where what is written goes, up to the limits' bytes and files. */
  readonly layer: WritableLayer;
  readonly mounts: readonly MountPlan[];
  /** What may leave; with a policy the sandbox has an interface whose traffic rides the channel. */
  readonly network: "none" | NetworkPolicy;
  /** Headers that the edge adds outside of the sandbox, without their values. Their hosts' TLS ends there. */
  readonly secrets?: readonly SecretPlace[];
  /** Programs are told of a proxy, which is judged by `network`. */
  readonly proxyVariables?: true;
  readonly process: {
    readonly user: string;
    readonly workdir: string | null;
    readonly env: Readonly<Record<string, string>>;
    readonly hostname: string;
    /** Directories that the image promises and does not have: made by root inside before anything runs. */
    readonly makes: readonly string[];
    /** Before the arguments of a run, or before `cmd` where it is given none. Both empty: nobody has said what runs. */
    readonly entrypoint: readonly string[];
    readonly cmd: readonly string[];
    /** How a run is ended: by this signal, and after that long by SIGKILL. */
    readonly stop: { readonly signal: string; readonly timeoutMs: number };
  };
  /** Reasons for the choices made, in words, in order. */
  readonly reasons: readonly string[];
}
