import { join } from "node:path";
import type { InheritedFd, Plan, Step } from "@bulkhead/contract";
import type { HostFacts } from "../../host/facts.ts";
import type { Filter } from "../container/seccomp/compile.ts";
import type { ImageFiles, Instance } from "../driver.ts";
import { mountSteps, places } from "../rootfs.ts";
import { erofsPath } from "../../guest/erofs.ts";
import { SAVED } from "./checkpoint.ts";
import { JAIL } from "./jail-root.ts";
import { jailBundle, type JailRequest } from "./jail.ts";
import { cloneCommands, qemuArgv, type Machine, type Shared, type Start } from "./qemu.ts";
import { jailUser, sharingOf, shownToQemu } from "./sharing.ts";
import { layerFile } from "../layer.ts";
import type { ScratchSize } from "../scratch.ts";
import type { Survey } from "./survey.ts";
import type { TemplateFiles } from "./templates.ts";

/** A start takes 60 to 500 ms; a host that needs this long is not able to run anything. */
const START_TIMEOUT_MS = 30_000;
/** Numbers of what QEMU inherits; the last four are a clone's alone. */
const FDS = { console: 3, upper: 4, state: 5, memory: 6, controlIn: 7, controlOut: 8 } as const;
const COLD_FDS = 2;
const CLONE_FDS = 6;

export interface StepsRequest {
  readonly plan: Plan;
  readonly instance: Instance;
  readonly image: ImageFiles;
  readonly host: HostFacts;
  readonly survey: Survey;
  readonly filter: Filter;
  readonly crun: string;
  readonly memoryMib: number;
  readonly cpus: number;
  readonly scratch: ScratchSize;
  readonly origin: Origin;
}

/** What a guest starts from: a kernel, a guest that was booted before, or a sandbox that was saved in a directory. */
export type Origin =
  | { readonly kind: "boot" }
  | { readonly kind: "template"; readonly files: TemplateFiles }
  /** `lasting`: it is many sandboxes' and stays. */
  | { readonly kind: "saved"; readonly dir: string; readonly lasting: boolean };

interface Way {
  readonly start: Start;
  readonly binds: JailRequest["binds"];
  readonly steps: readonly Step[];
  readonly fds: readonly InheritedFd[];
  /** What the writable layer begins as. */
  readonly disk: string;
}

/** The user's mounts are below one directory, which is shown to QEMU with them. */
function sharedDirectory({ plan }: StepsRequest): Shared | null {
  const sharing = sharingOf(plan.mounts);
  return sharing === "none" ? null : { path: JAIL.shared, readOnly: sharing === "read" };
}

/** From a boot: the kernel and the agent are shown to QEMU. */
function cold(request: StepsRequest): Way {
  const { plan, instance, survey, host } = request;
  const [kernel, initramfs] = [`${instance.dir}/kernel`, `${instance.dir}/initramfs`];
  return {
    start: {
      kind: "cold",
      boot: { kind: survey.boot.kind, kernel: JAIL.kernel, initramfs: JAIL.initramfs },
      disks: { root: JAIL.root, upper: FDS.upper },
      shared: sharedDirectory(request),
    },
    binds: [
      { source: kernel, inside: JAIL.kernel, readOnly: true },
      { source: initramfs, inside: JAIL.initramfs, readOnly: true },
    ],
    steps: [
      { op: "bind", source: survey.boot.kernel, target: kernel, readOnly: true },
      { op: "bind", source: survey.boot.initramfs, target: initramfs, readOnly: true },
    ],
    fds: [],
    disk: layerFile(plan, host.paths.state),
  };
}

/** From a template or a saved sandbox: its memory and state are inherited, and the order to wake lies ready in a FIFO. */
function clone(request: StepsRequest, origin: Exclude<Origin, { kind: "boot" }>): Way {
  const { plan, instance, host } = request;
  const saved = origin.kind === "saved";
  const from = saved ? { memory: join(origin.dir, SAVED.memory), state: join(origin.dir, SAVED.state) } : origin.files;
  const control = `${instance.dir}/control`;
  const user = jailUser(plan.mounts);
  const owner = { uid: instance.idBase + user.uid, gid: instance.idBase + user.gid };
  const fifo = (name: string): Step => ({ op: "fifo", path: `${control}/${name}`, mode: 0o600, ...owner });
  return {
    start: {
      kind: "clone",
      disks: { root: JAIL.root, upper: FDS.upper },
      memory: `/proc/self/fd/${FDS.memory}`,
      control: `${JAIL.control}/qmp`,
      shared: sharedDirectory(request),
      devicesOnly: saved,
    },
    binds: [{ source: control, inside: JAIL.control, readOnly: true }],
    steps: [{ op: "dir", path: control, mode: 0o755 }, fifo("qmp.in"), fifo("qmp.out"), fifo("state")],
    fds: [
      { fd: FDS.state, from: "file", path: from.state },
      // A template is every sandbox's and lasts; what one sandbox left is its heirs' alone.
      { fd: FDS.memory, from: "sealed", path: from.memory, keep: !saved || origin.lasting },
      // Held open so that what is in it is there when QEMU opens it.
      {
        fd: FDS.controlIn,
        from: "fifo",
        path: `${control}/qmp.in`,
        access: "both",
        content: cloneCommands(FDS.state),
      },
      { fd: FDS.controlOut, from: "fifo", path: `${control}/qmp.out`, access: "both" },
    ],
    disk: saved ? join(origin.dir, SAVED.disk) : layerFile(plan, host.paths.state),
  };
}

function bundle(request: StepsRequest, way: Way, machine: Machine): unknown {
  const { plan, instance, host, filter, scratch, memoryMib, cpus } = request;
  const jail: JailRequest = {
    argv: qemuArgv(machine, way.start),
    root: `${instance.dir}/root`,
    idBase: instance.idBase,
    cgroup: instance.cgroup,
    kvm: machine.accelerator.kind === "kvm",
    cpus,
    cpuLimit: plan.limits.cpus,
    cpuWeight: plan.limits.cpuWeight,
    guestMemoryBytes: memoryMib * 1024 * 1024,
    diskBytes: scratch.bytes,
    sharing: sharingOf(plan.mounts),
    user: jailUser(plan.mounts),
    binds: [
      { source: `${instance.dir}/image`, inside: JAIL.root, readOnly: true },
      ...way.binds,
      ...plan.mounts.map(({ readOnly }, index) => ({
        source: places(instance).mount(index),
        inside: `${JAIL.shared}/${index}`,
        readOnly,
      })),
    ],
  };
  return jailBundle(jail, filter, host);
}

/** Steps that end with a guest whose agent answers on the FIFOs. Bound mounts carry what lies in root's own directories. */
export function microvmSteps(request: StepsRequest): Step[] {
  const { instance, image, survey, scratch, origin } = request;
  const at = places(instance);
  const way = origin.kind === "boot" ? cold(request) : clone(request, origin);
  const { accelerator } = survey;
  const { memoryMib, cpus } = request;
  const { diskIops, diskBytesPerSecond } = request.plan.limits;
  const { keep } = request.plan.layer;
  const machine: Machine = {
    binary: JAIL.binary,
    accelerator,
    kernel: survey.boot.kind,
    memoryMib,
    cpus,
    consoleFd: FDS.console,
    throttle: { iops: diskIops, bytesPerSecond: diskBytesPerSecond },
    keepsDisk: keep !== null,
  };
  return [
    { op: "cgroup", path: instance.cgroup },
    ...[at.stdin, at.stdout, at.stderr].map((path): Step => ({ op: "fifo", path, mode: 0o600 })),
    { op: "dir", path: at.root, mode: 0o755 },
    { op: "bind", source: survey.jail, target: at.root, readOnly: true },
    { op: "bind", source: erofsPath(image), target: `${instance.dir}/image`, readOnly: true },
    ...way.steps,
    ...mountSteps(request.plan, instance, shownToQemu(request.plan.mounts, instance.idBase)),
    { op: "file", path: at.config, mode: 0o600, content: JSON.stringify(bundle(request, way, machine)) },
    { op: "dir", path: at.state, mode: 0o700 },
    {
      op: "run",
      argv: [
        request.crun,
        "--root",
        at.state,
        "run",
        "--detach",
        "--preserve-fds",
        String(origin.kind === "boot" ? COLD_FDS : CLONE_FDS),
        "--pid-file",
        at.pidFile,
        "--bundle",
        instance.dir,
        instance.id,
      ],
      stdin: at.stdin,
      stdout: at.stdout,
      stderr: at.stderr,
      fds: [
        { fd: FDS.console, from: "fifo", path: at.stderr, access: "write" },
        { fd: FDS.upper, from: keep === null ? "copy" : "kept", path: way.disk, maxBytes: scratch.bytes },
        ...way.fds,
      ],
      timeoutMs: START_TIMEOUT_MS,
      pidFile: at.pidFile,
    },
  ];
}
