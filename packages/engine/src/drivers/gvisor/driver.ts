import { BulkheadError, type Plan, type Step } from "@bulkhead/contract";
import { AGENT_INSIDE, type HostFacts } from "../../host/facts.ts";
import type { ResolvedSpec } from "../../policy/resolve.ts";
import { OPEN_FILES } from "../container/hardening.ts";
import type { Availability, Driver, ImageFiles, Instance, Runtime } from "../driver.ts";
import { ensureLayer } from "../layer.ts";
import { diskReasons, ociLimits } from "../limits.ts";
import { located } from "../located.ts";
import { EGRESS_CAPABILITIES, resources, type OciMount } from "../oci.ts";
import { imageAndProcess, writableMounts } from "../program.ts";
import { ID_RANGE, places, rootSteps } from "../rootfs.ts";

const MIB = 1024 * 1024;
/**
 * The Sentry, the gofer and their helpers use 22 to 30 host tasks when idle and hundreds with many processes inside; when
 * the limit is hit the whole sandbox dies.
 */
const HOST_TASK_OVERHEAD = 1024;
/** The Sentry and the gofer, measured: about 13 MiB idle, 40 MiB with a loaded file tree. */
const HOST_MEMORY_OVERHEAD_BYTES = 64 * MIB;
/** A start takes 120 to 250 ms; a host that needs this long is not able to run anything. */
const START_TIMEOUT_MS = 30_000;
/** First year whose releases have the systrap platform, which needs no hardware and is faster than ptrace. */
const SYSTRAP_SINCE = 2023;
const SHM_BYTES = 64 * MIB;

/** What container engines give by default; answered by the Sentry, so none of them is one on the host. */
const CAPABILITIES = [
  "CAP_AUDIT_WRITE",
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_FOWNER",
  "CAP_FSETID",
  "CAP_KILL",
  "CAP_MKNOD",
  "CAP_NET_BIND_SERVICE",
  "CAP_NET_RAW",
  "CAP_SETFCAP",
  "CAP_SETGID",
  "CAP_SETPCAP",
  "CAP_SETUID",
  "CAP_SYS_CHROOT",
] as const;

/**
 * --directfs=false: the Sentry opens no files itself and so runs as nobody without capabilities (with directfs it runs as
 * root with nine). --overlay2=none: writes reach the host's overlay, whose size is bounded; the Sentry's own is not.
 */
const FLAGS = [
  "--platform=systrap",
  "--network=none",
  "--directfs=false",
  "--overlay2=none",
  "--host-uds=none",
  "--cpu-num-from-quota",
];

/** `0.0~20240729.0` (Debian) and `20240729.0`. */
function releaseYear(version: string): number {
  return Number(/(\d{4})\d{4}/.exec(version)?.[1] ?? 0);
}

function locate(host: HostFacts): Availability {
  const install = "install runsc 20230102 or newer (Debian 12 has it in backports) on PATH or in the state directory";
  const found = located("runsc", host, install);
  if (!found.ok) return found;
  const { runtime } = found;
  if (releaseYear(runtime.version) < SYSTRAP_SINCE) {
    return { ok: false, reason: `runsc ${runtime.version} has no systrap platform`, remedy: install };
  }
  return found;
}

/** The Sentry behaves as if no_new_privs were always set: set-user-id bits mean nothing. */
function refuseSetuid(spec: ResolvedSpec, runtime: Runtime): void {
  if (!spec.allowSetuid) return;
  throw new BulkheadError("LEVEL_UNAVAILABLE", {
    what: "set-user-id programs cannot be had at gvisor",
    why: `runsc ${runtime.version} never lets a program raise its privileges`,
    next: "leave it out: sudo works at gvisor without it, and --user root needs no set-user-id program",
  });
}

function plan(spec: ResolvedSpec, runtime: Runtime, image: ImageFiles, host: HostFacts): Plan {
  refuseSetuid(spec, runtime);
  return {
    version: 1,
    level: "gvisor",
    driver: "gvisor/runsc",
    runtime,
    ...imageAndProcess(spec, image),
    boundary: {
      namespaces: ["pid", "mnt", "net", "ipc", "uts", "user"],
      userNamespace: true,
      noNewPrivileges: true,
      capabilitiesRoot: CAPABILITIES,
      ...(spec.network !== "none" && { setupCapabilities: EGRESS_CAPABILITIES }),
      capabilitiesUser: [],
      seccomp: null,
      maskedPaths: [],
      readOnlyPaths: [],
      kernel: "sentry",
      weakened: writableMounts(spec.mounts),
    },
    limits: ociLimits(spec, host),
    layer: spec.layer,
    mounts: spec.mounts,
    network: spec.network,
    reasons: [
      spec.levelReason,
      `runsc ${runtime.version} (systrap) answers the sandbox's system calls; no hardware virtualisation is needed`,
      "the Sentry runs as nobody without capabilities, and opens no file itself (directfs off)",
      `the host allows ${HOST_TASK_OVERHEAD} tasks and ${HOST_MEMORY_OVERHEAD_BYTES / MIB} MiB more than asked, for gVisor itself`,
      image.usrBin
        ? "sudo asks the agent, which runs the command as root inside: the Sentry ignores set-user-id bits"
        : "no sudo: the Sentry ignores set-user-id bits, and the image has no directory /usr/bin for one that asks the agent",
      "/tmp is the Sentry's own, as large as the disk limit and part of the memory limit",
      ...diskReasons(spec),
      ...(host.cgroup.swap ? [] : ["swap cannot be limited on this kernel; the memory limit is on memory alone"]),
    ],
  };
}

function mounts(plan: Plan, instance: Instance): OciMount[] {
  const at = places(instance);
  const tmpfs = (destination: string, options: readonly string[]): OciMount => ({
    destination,
    type: "tmpfs",
    source: "tmpfs",
    options: ["nosuid", "nodev", ...options],
  });
  return [
    { destination: "/proc", type: "proc", source: "proc", options: [] },
    { destination: "/sys", type: "sysfs", source: "sysfs", options: ["ro"] },
    tmpfs("/dev/shm", ["mode=1777", `size=${SHM_BYTES}`]),
    tmpfs("/tmp", ["mode=1777", `size=${plan.limits.diskBytes}`]),
    ...plan.mounts.map(({ target, readOnly }, index) => ({
      destination: target,
      type: "bind",
      source: at.mount(index),
      options: ["bind", "nosuid", "nodev", readOnly ? "ro" : "rw"],
    })),
  ];
}

function bundle(plan: Plan, instance: Instance, host: HostFacts): unknown {
  const { capabilitiesRoot, setupCapabilities = [] } = plan.boundary;
  const capabilities = [...capabilitiesRoot, ...setupCapabilities];
  const ids = [{ containerID: 0, hostID: instance.idBase, size: ID_RANGE }];
  const descriptors = Math.max(OPEN_FILES, plan.limits.openFiles);
  const overhead = { tasks: HOST_TASK_OVERHEAD, memoryBytes: HOST_MEMORY_OVERHEAD_BYTES };
  return {
    ociVersion: "1.0.2",
    hostname: plan.process.hostname,
    root: { path: places(instance).root, readonly: false },
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      args: [AGENT_INSIDE],
      env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
      cwd: "/",
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      // The agent's own, in the Sentry's eyes; it gives programs what the plan says.
      rlimits: [{ type: "RLIMIT_NOFILE", soft: descriptors, hard: descriptors }],
    },
    mounts: mounts(plan, instance),
    linux: {
      namespaces: ["pid", "mount", "network", "ipc", "uts", "user"].map((type) => ({ type })),
      uidMappings: ids,
      gidMappings: ids,
      cgroupsPath: instance.cgroup,
      resources: resources(plan, host, { overhead }),
    },
  };
}

function steps(plan: Plan, instance: Instance, image: ImageFiles, host: HostFacts): Step[] {
  const at = places(instance);
  const own = [...FLAGS, `--root=${at.state}`];
  return [
    { op: "cgroup", path: instance.cgroup },
    ...rootSteps({ plan, instance, image, host, sudo: image.usrBin }),
    { op: "file", path: at.config, mode: 0o600, content: JSON.stringify(bundle(plan, instance, host)) },
    { op: "dir", path: at.state, mode: 0o711 },
    {
      op: "run",
      argv: [
        plan.runtime.path,
        ...own,
        "run",
        "-detach",
        `-pid-file=${at.pidFile}`,
        `-bundle=${instance.dir}`,
        instance.id,
      ],
      stdin: at.stdin,
      stdout: at.stdout,
      stderr: at.stderr,
      timeoutMs: START_TIMEOUT_MS,
      pidFile: at.pidFile,
    },
  ];
}

/** A kernel in user space between the sandbox and the host's: runsc with the systrap platform. */
export function gvisorDriver(): Driver {
  return {
    level: "gvisor",
    name: "gvisor/runsc",
    capabilities: {
      elevation: "agent",
      ownKernel: true,
      hardware: false,
      diskThrottle: "cgroup",
      layerWriter: "host",
      freeze: true,
      checkpoint: false,
      filtersRaisedPrivileges: false,
      recordsCalls: false,
      hostTaskOverhead: HOST_TASK_OVERHEAD,
    },
    locate,
    plan,
    steps,
    provide: (made, image, help) => ensureLayer(made, image, "host", help),
  };
}
