import type { Plan, Step } from "@bulkhead/contract";
import type { HostFacts } from "../../host/facts.ts";
import type { ResolvedSpec } from "../../policy/resolve.ts";
import type { Driver, ImageFiles, Instance, Runtime } from "../driver.ts";
import { ensureLayer } from "../layer.ts";
import { diskReasons, ociLimits } from "../limits.ts";
import { located } from "../located.ts";
import { EGRESS_CAPABILITIES, TUN_DEVICE } from "../oci.ts";
import { imageAndProcess, writableMounts } from "../program.ts";
import { places, rootSteps } from "../rootfs.ts";
import { bundle, hasTun, type SeccompSection } from "./bundle.ts";
import { meminfoSteps } from "./meminfo.ts";
import { HOST_TASK_OVERHEAD, MASKED_PATHS, READ_ONLY_PATHS, ROOT_CAPABILITIES } from "./hardening.ts";
import type { Filter } from "./seccomp/compile.ts";
import { renderOci } from "./seccomp/oci.ts";
import { PROFILE } from "./seccomp/profile.ts";
import { loadAppArmor, moduleReasons, oursIn, securityModules, withAppArmor } from "./security-modules.ts";

/** A start takes about 10 ms; a host that needs this long is not able to run anything. */
const START_TIMEOUT_MS = 30_000;

/** What differs between crun and runc. */
interface Flavour {
  readonly name: "crun" | "runc";
  /** Takes a compiled filter, which saves compiling one at every start (as long as the start itself). */
  readonly precompiled: boolean;
  /** First version that makes time namespaces. */
  readonly timeNamespaceSince: readonly [number, number] | null;
}

const FLAVOURS: Readonly<Record<"crun" | "runc", Flavour>> = {
  crun: { name: "crun", precompiled: true, timeNamespaceSince: [1, 6] },
  runc: { name: "runc", precompiled: false, timeNamespaceSince: [1, 2] },
};

const CONTAINER_NAMESPACES = ["pid", "mnt", "net", "ipc", "uts", "cgroup", "user"];

function makesTimeNamespaces(flavour: Flavour, version: string, host: HostFacts): boolean {
  const [major = 0, minor = 0] = version.split(".").map((part) => Number.parseInt(part, 10));
  const since = flavour.timeNamespaceSince;
  if (since === null || !host.namespaces.includes("time")) return false;
  return major > since[0] || (major === since[0] && minor >= since[1]);
}

function seccompSection(flavour: Flavour, filter: Filter): SeccompSection {
  if (!flavour.precompiled) return { seccomp: renderOci(PROFILE, filter.arch), annotations: {} };
  return {
    // A runtime that does not know the annotation would refuse every call: such a sandbox fails to start.
    seccomp: { defaultAction: "SCMP_ACT_ERRNO" },
    annotations: { "run.oci.seccomp_bpf_data": filter.program },
  };
}

function weakened(spec: ResolvedSpec): string[] {
  const words = spec.allowSetuid
    ? ["set-user-id programs may raise privileges inside (no_new_privs is off, and with it Landlock)"]
    : [];
  return [...words, ...writableMounts(spec.mounts)];
}

function plan(
  flavour: Flavour,
  filter: Filter,
  spec: ResolvedSpec,
  runtime: Runtime,
  image: ImageFiles,
  host: HostFacts,
): Plan {
  const time = makesTimeNamespaces(flavour, runtime.version, host);
  return {
    version: 1,
    level: "container",
    driver: `container/${flavour.name}`,
    runtime,
    ...imageAndProcess(spec, image),
    boundary: {
      namespaces: time ? [...CONTAINER_NAMESPACES, "time"] : CONTAINER_NAMESPACES,
      userNamespace: true,
      noNewPrivileges: !spec.allowSetuid,
      capabilitiesRoot: ROOT_CAPABILITIES,
      ...(spec.network !== "none" && { setupCapabilities: EGRESS_CAPABILITIES, devices: [TUN_DEVICE] }),
      capabilitiesUser: [],
      seccomp: { name: filter.name, digest: filter.digest, precompiled: flavour.precompiled },
      maskedPaths: MASKED_PATHS,
      readOnlyPaths: READ_ONLY_PATHS,
      kernel: "shared",
      securityModules: securityModules(!spec.allowSetuid, host),
      weakened: weakened(spec),
    },
    limits: ociLimits(spec, host),
    layer: spec.layer,
    mounts: spec.mounts,
    network: spec.network,
    reasons: [
      spec.levelReason,
      `${flavour.name} ${runtime.version} makes the container; Bulkhead prepares and removes everything around it`,
      time
        ? "the runtime and the kernel make a time namespace"
        : `no time namespace: ${flavour.name} ${runtime.version} or this kernel cannot make one`,
      ...moduleReasons(!spec.allowSetuid, host),
      ...diskReasons(spec),
      ...(host.cgroup.swap ? [] : ["swap cannot be limited on this kernel; the memory limit is on memory alone"]),
    ],
  };
}

function steps(
  flavour: Flavour,
  filter: Filter,
  plan: Plan,
  instance: Instance,
  image: ImageFiles,
  host: HostFacts,
): Step[] {
  const at = places(instance);
  const config = bundle(plan, instance, host, seccompSection(flavour, filter));
  return [
    { op: "cgroup", path: instance.cgroup },
    ...rootSteps({ plan, instance, image, host }),
    { op: "userns", target: at.userns },
    ...(hasTun(plan) ? [{ op: "tun", target: at.devices } as const] : []),
    ...meminfoSteps(plan, instance),
    { op: "file", path: at.config, mode: 0o600, content: JSON.stringify(config) },
    { op: "dir", path: at.state, mode: 0o700 },
    {
      op: "run",
      argv: [
        plan.runtime.path,
        "--root",
        at.state,
        "run",
        "--detach",
        "--pid-file",
        at.pidFile,
        "--bundle",
        instance.dir,
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

/** Namespaces, control groups and seccomp, made by crun or runc. */
export function containerDriver(name: "crun" | "runc", filter: Filter): Driver {
  const flavour = FLAVOURS[name];
  return {
    level: "container",
    name: `container/${name}`,
    capabilities: {
      elevation: "none",
      ownKernel: false,
      hardware: false,
      diskThrottle: "cgroup",
      layerWriter: "host",
      freeze: true,
      checkpoint: false,
      filtersRaisedPrivileges: false,
      recordsCalls: true,
      hostTaskOverhead: HOST_TASK_OVERHEAD,
    },
    locate: (host) => withAppArmor(located(name, host, `apt-get install ${name}`), host),
    plan: (spec, runtime, image, host) => plan(flavour, filter, spec, runtime, image, host),
    provide: async (made, image, help) => {
      if (oursIn(made.boundary.securityModules) !== null) await loadAppArmor(help.host, help.signal);
      await ensureLayer(made, image, "host", help);
    },
    steps: (made, instance, image, host) => steps(flavour, filter, made, instance, image, host),
  };
}
