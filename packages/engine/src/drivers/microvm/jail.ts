import type { HostFacts } from "../../host/facts.ts";
import { makeFilter, type Filter } from "../container/seccomp/compile.ts";
import type { Architecture } from "../container/seccomp/syscalls.ts";
import { vmmProfile, type Sharing } from "./filter.ts";
import { JAIL } from "./jail-root.ts";
import { TRANSLATED_MIB } from "./qemu.ts";

/** Host ids of the jail's user and of its root, which owns nothing and runs nothing. */
const ID_RANGE = 65_536;
export const JAIL_NAMESPACES = ["pid", "mount", "network", "ipc", "uts", "cgroup", "user"] as const;
/** Who QEMU is inside the jail. */
export interface JailUser {
  readonly uid: number;
  readonly gid: number;
}

export const JAIL_USER: JailUser = { uid: 1000, gid: 1000 };
const MIB = 1024 * 1024;
/** QEMU's own data and device state, measured 36 MiB, with room for its threads and requests under way. */
const VMM_OWN_MIB = 96;
/** Memory besides the guest's. */
export const VMM_OVERHEAD_BYTES = (VMM_OWN_MIB + TRANSLATED_MIB) * MIB;
/** QEMU's main thread, one per processor, RCU, and what it starts for disk requests. */
const TASKS_BESIDES_CPUS = 70;
const CPU_PERIOD_US = 100_000;
const OPEN_FILES = 256;
/** QEMU gives back the files that it has open for a guest when half of these are, and opens them again when they are used. */
const OPEN_FILES_SHARING = 1024;
/** Nothing of the host's is read through /proc by QEMU: all that is not per process is covered. */
const MASKED = ["/proc/acpi", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/kcore", "/proc/keys", "/proc/sys"];

export interface JailRequest {
  readonly argv: readonly string[];
  /** `jailRoot`'s. */
  readonly root: string;
  readonly idBase: number;
  readonly cgroup: string;
  readonly kvm: boolean;
  readonly cpus: number;
  /** Share of the host's processors, null for no limit. */
  readonly cpuLimit: number | null;
  readonly guestMemoryBytes: number;
  /** Size of the writable layer's file. */
  readonly diskBytes: number;
  readonly sharing: Sharing;
  readonly user: JailUser;
  /** Host paths: the image, the directory with the control FIFOs, what is shared. */
  readonly binds: readonly { readonly source: string; readonly inside: string; readonly readOnly: boolean }[];
}

/** A VMM's filter, for crun's `run.oci.seccomp_bpf_data`. */
export function vmmFilter(arch: Architecture, kvm: boolean, sharing: Sharing = "none"): Filter {
  return makeFilter(vmmProfile(kvm, sharing), arch);
}

function mounts({ sharing, binds }: JailRequest): readonly object[] {
  const plain = ["nosuid", "noexec", "nodev"];
  const tmpfs = ["mode=755", "size=65536"];
  // The runtime makes in it what the mounts are put on, and then makes it read-only.
  const above = { destination: JAIL.shared, type: "tmpfs", source: "tmpfs", options: [...plain, ...tmpfs, "ro"] };
  return [
    { destination: "/proc", type: "proc", source: "proc", options: [...plain, "ro"] },
    { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "noexec", ...tmpfs] },
    ...(sharing === "none" ? [] : [above]),
    ...binds.map(({ source, inside, readOnly }) => ({
      destination: inside,
      type: "bind",
      source,
      options: ["bind", "private", ...plain, readOnly ? "ro" : "rw"],
    })),
  ];
}

function rlimits({ sharing, diskBytes }: JailRequest): readonly object[] {
  const limit = (type: string, value: number): object => ({ type: `RLIMIT_${type}`, soft: value, hard: value });
  return [
    limit("NOFILE", sharing === "none" ? OPEN_FILES : OPEN_FILES_SHARING),
    limit("CORE", 0),
    // The writable layer does not grow, whoever writes to it. A host directory has no such bound.
    ...(sharing === "write" ? [] : [limit("FSIZE", diskBytes)]),
  ];
}

/**
 * A clone's own pages, and once more as many: a page that the template never touched is made in the template's memory file
 * when a clone first reads or writes it, and counts as that clone's although all clones share it from then on. With less, the
 * first to use its memory would be killed. On the host it is one guest's size per template, not per clone.
 */
export function memoryLimit(guestMemoryBytes: number): number {
  return 2 * guestMemoryBytes + VMM_OVERHEAD_BYTES;
}

export function taskLimit(cpus: number): number {
  return TASKS_BESIDES_CPUS + cpus;
}

/**
 * OCI configuration of the container around QEMU: a user of its own without capabilities, no network, a root that holds
 * QEMU and nothing else, read-only, and a limit on memory.
 */
export function jailBundle(request: JailRequest, filter: Filter, host: Pick<HostFacts, "cgroup">): unknown {
  const ids = [{ containerID: 0, hostID: request.idBase, size: ID_RANGE }];
  const limit = memoryLimit(request.guestMemoryBytes);
  return {
    ociVersion: "1.0.2",
    hostname: "vmm",
    root: { path: request.root, readonly: true },
    process: {
      terminal: false,
      user: { ...request.user },
      args: request.argv,
      env: [],
      cwd: "/",
      capabilities: {},
      noNewPrivileges: true,
      rlimits: rlimits(request),
    },
    mounts: mounts(request),
    annotations: { "run.oci.seccomp_bpf_data": filter.program },
    linux: {
      namespaces: JAIL_NAMESPACES.map((type) => ({ type })),
      uidMappings: ids,
      gidMappings: ids,
      cgroupsPath: request.cgroup,
      ...(request.kvm ? { devices: [{ type: "c", path: "/dev/kvm", major: 10, minor: 232, fileMode: 0o666 }] } : {}),
      resources: {
        devices: [
          { allow: false, access: "rwm" },
          ...(request.kvm ? [{ allow: true, type: "c", major: 10, minor: 232, access: "rw" }] : []),
        ],
        memory: { limit, ...(host.cgroup.swap ? { swap: limit } : {}) },
        ...(request.cpuLimit === null
          ? {}
          : { cpu: { quota: Math.round(request.cpuLimit * CPU_PERIOD_US), period: CPU_PERIOD_US } }),
        pids: { limit: taskLimit(request.cpus) },
      },
      // Without the annotation's program nothing would be allowed: a runtime that does not know it fails.
      seccomp: { defaultAction: "SCMP_ACT_ERRNO" },
      maskedPaths: MASKED,
      readonlyPaths: [],
    },
  };
}

export { JAIL };
