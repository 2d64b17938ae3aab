import { existsSync } from "node:fs";
import { join } from "node:path";
import { BulkheadError, type Plan, type Step } from "@bulkhead/contract";
import { erofsPath } from "../../guest/erofs.ts";
import { FileCache } from "../../host/file-cache.ts";
import type { HostFacts } from "../../host/facts.ts";
import { OWN_QEMU } from "../../host/own-qemu.ts";
import type { ResolvedSpec } from "../../policy/resolve.ts";
import { HOST_TASK_OVERHEAD, OPEN_FILES } from "../container/hardening.ts";
import { located } from "../located.ts";
import type { Inside } from "../../sandbox/calls.ts";
import type { Filter } from "../container/seccomp/compile.ts";
import type { Architecture } from "../../seccomp/syscalls.ts";
import type { Availability, Checkpoint, Driver, Help, ImageFiles, Instance, LayerAside, Runtime } from "../driver.ts";
import { commonLimits, limitsDisk } from "../limits.ts";
import { imageAndProcess, writableMounts } from "../program.ts";
import { GUEST_CAPABILITIES } from "./capabilities.ts";
import { fingerprint, savedSizes, saveMachine } from "./checkpoint.ts";
import { explainEnd } from "./end.ts";
import { reachableCalls, vmmProfile, type Sharing } from "./filter.ts";
import {
  DEFAULT_CPUS,
  DEFAULT_MEMORY_BYTES,
  identityOf,
  keyOf,
  LAYER_DEVICE,
  memoryMib,
  MIB,
  type Size,
  sizeOf,
} from "./guest.ts";
import { JAIL_NAMESPACES, memoryLimit, taskLimit, vmmFilter, VMM_OVERHEAD_BYTES } from "./jail.ts";
import { mountReasons, refuseMounts, sharingOf } from "./sharing.ts";
import type { GuestIdentity } from "../../guest/prepare.ts";
import { ensureLayer } from "../layer.ts";
import { SHARED_TAG } from "./qemu.ts";
import { microvmSteps, type Origin } from "./steps.ts";
import { KVM, survey, type Survey } from "./survey.ts";
import { ensureTemplate, templateFiles } from "./templates.ts";

const NAME = "microvm/qemu";
const CPUS_MAX = 32;
/** Of a guest that has its layer aside: room for its name and ids. */
const ASIDE_UPPER = { bytes: MIB, inodes: 256 };
const INSTALL = "run bulkhead setup microvm";

export interface MicrovmOptions {
  /** False boots every guest. */
  readonly templates: boolean;
}

function locate(host: HostFacts): Availability {
  const no = (reason: string, remedy = INSTALL): Availability => ({ ok: false, reason, remedy });
  if (host.arch !== "x64") return no(`no guest kernel is built for ${host.arch}`, "use an x86-64 machine");
  const qemu = located("qemu-system-x86_64", host, INSTALL);
  if (!qemu.ok) return qemu;
  const crun = located("crun", host, INSTALL);
  if (!crun.ok) return no(`QEMU's jail cannot be made: ${crun.reason}`, crun.remedy);
  if (host.guestKernel === null) return no("no guest kernel is set up");
  return qemu;
}

/** What doctor says of it. */
function noted(found: Availability, host: HostFacts, { accelerator, why }: Survey): Availability {
  if (!found.ok) return found;
  const kvm = accelerator.kind === "kvm";
  const notes = [
    kvm ? "accelerator KVM" : `accelerator TCG (${why})`,
    kernelReason(host),
    monitorReason(found.runtime),
    `${reachableCalls(vmmProfile(kvm))} host system calls reachable from QEMU's jail`,
  ];
  return { ...found, notes };
}

function refuse(what: string, why: string, next: string): never {
  throw new BulkheadError("LEVEL_UNAVAILABLE", { what, why, next });
}

function boundary({ kvm, filter: filterOf }: Known, { mounts }: ResolvedSpec, size: Size): Plan["boundary"] {
  const sharing = sharingOf(mounts);
  const filter = filterOf(sharing);
  return {
    namespaces: [],
    userNamespace: false,
    noNewPrivileges: false,
    capabilitiesRoot: GUEST_CAPABILITIES,
    capabilitiesUser: [],
    seccomp: null,
    maskedPaths: [],
    readOnlyPaths: [],
    kernel: "guest",
    monitor: {
      accelerator: kvm ? "kvm" : "tcg",
      namespaces: JAIL_NAMESPACES,
      capabilities: [],
      seccomp: { name: filter.name, digest: filter.digest },
      reachableCalls: reachableCalls(vmmProfile(kvm, sharing)),
      memoryBytes: memoryLimit(size.memoryMib * MIB),
      tasks: taskLimit(size.cpus),
    },
    weakened: writableMounts(mounts),
  };
}

function reasons(
  spec: ResolvedSpec,
  runtime: Runtime,
  host: HostFacts,
  known: Survey,
  { templates }: MicrovmOptions,
): string[] {
  const { accelerator, why } = known;
  return [
    spec.levelReason,
    accelerator.kind === "kvm"
      ? `QEMU ${runtime.version} with KVM: the processor draws the boundary`
      : `QEMU ${runtime.version} emulates the processor (TCG): ${why}`,
    "QEMU runs in a jail: ids of its own, no capabilities, no network, a read-only root that holds QEMU alone, its own filter",
    kernelReason(host),
    templates
      ? "the guest is a copy-on-write clone of one that was booted before, with fresh random numbers, ids and time"
      : "the guest is booted: templates are off",
    `a guest has the memory asked for and its kernel's own; the jail's limit is that twice and ${VMM_OVERHEAD_BYTES / MIB} MiB`,
    spec.layerReason,
    ...mountReasons(spec.mounts),
    ...(spec.cpus === undefined ? [`without a number of processors a guest has ${DEFAULT_CPUS}`] : []),
    ...(host.cgroup.swap ? [] : ["swap cannot be limited on this kernel; the memory limit is on memory alone"]),
  ];
}

function kernelReason({ guestKernel }: HostFacts): string {
  const { kind, release, hash } = guestKernel ?? { kind: "own", release: "", hash: "" };
  const whose = kind === "own" ? "ours" : "Debian's, which starts more slowly; for ours: bulkhead setup microvm";
  return `the guest's kernel ${release} (${hash.slice(0, 12)}) is ${whose}`;
}

function monitorReason({ path }: Runtime): string {
  return path.includes(`/${OWN_QEMU}/`)
    ? "QEMU is ours, built from Debian's source with what guests need and nothing else"
    : "QEMU is Debian's, which starts more slowly and holds more; for ours: bulkhead setup microvm";
}

/** What a driver knows once the machine is surveyed. */
interface Known {
  readonly options: MicrovmOptions;
  readonly survey: Survey;
  readonly kvm: boolean;
  /** Of QEMU's jail, by what is shared. */
  readonly filter: (sharing: Sharing) => Filter;
  /** Plans whose sandboxes wake with their root, and the directories that these are saved in. */
  readonly rooted: WeakMap<Plan, string>;
}

function plan(known: Known, spec: ResolvedSpec, runtime: Runtime, image: ImageFiles, host: HostFacts): Plan {
  refuseMounts(spec.mounts, host);
  const cpus = spec.cpus ?? DEFAULT_CPUS;
  if (cpus > CPUS_MAX) {
    refuse(`${cpus} processors cannot be had at microvm`, `a guest has at most ${CPUS_MAX}`, "ask for fewer");
  }
  const limits: Plan["limits"] = {
    ...commonLimits(spec),
    cpus,
    diskBytes: spec.diskBytes,
    diskInodes: spec.diskInodes,
    diskThrottle: limitsDisk(spec) ? { by: "monitor" } : null,
    openFiles: spec.openFiles ?? OPEN_FILES,
  };
  const scratch = { bytes: spec.diskBytes, inodes: spec.diskInodes };
  const size = { memoryMib: memoryMib(spec.memoryBytes), cpus: Math.ceil(cpus), scratch };
  return {
    version: 1,
    level: "microvm",
    driver: NAME,
    runtime,
    ...imageAndProcess(spec, image),
    boundary: boundary(known, spec, size),
    limits,
    layer: spec.layer,
    mounts: spec.mounts,
    network: spec.network,
    reasons: reasons(spec, runtime, host, known.survey, known.options),
  };
}

function steps(
  known: Known,
  made: Plan,
  instance: Instance,
  image: ImageFiles,
  host: HostFacts,
  saved?: Origin,
): readonly Step[] {
  const crun = host.runtimes["crun"];
  if (crun?.kind !== "found") throw new BulkheadError("INTERNAL", { what: "there is no crun" });
  const { survey, filter, options } = known;
  const template = (): Origin =>
    options.templates
      ? { kind: "template", files: templateFiles(host.paths.state, keyOf(made, host, survey)) }
      : { kind: "boot" };
  const origin: Origin = saved ?? template();
  const parts = {
    plan: made,
    instance,
    image,
    host,
    survey,
    filter: filter(sharingOf(made.mounts)),
    crun: crun.runtime.path,
    origin,
  };
  return microvmSteps({ ...parts, ...sizeOf(made) });
}

async function provide(known: Known, bare: Driver, made: Plan, image: ImageFiles, help: Help): Promise<void> {
  await ensureLayer(made, image, "guest", help);
  await provideGuest(known, made, image, help);
  if (!known.options.templates) return;
  const { rootedTemplate } = await import("./rooted.ts");
  const dir = await rootedTemplate(bare, known.survey, made, image, help);
  if (dir !== null) known.rooted.set(made, dir);
}

async function provideGuest({ survey, options }: Known, made: Plan, image: ImageFiles, help: Help): Promise<void> {
  const { state } = help.host.paths;
  const { ensureErofs } = await import("./provide.ts");
  await ensureErofs(image, help);
  if (!options.templates) return;
  await ensureTemplate(state, keyOf(made, help.host, survey), made.runtime.path, survey.boot, help);
}

async function prepare(
  made: Plan,
  inside: Inside,
  signal: AbortSignal | undefined,
  upper: GuestIdentity["upper"] = identityOf(made).upper,
): Promise<void> {
  const { mountShared, prepareGuest } = await import("../../guest/prepare.ts");
  await prepareGuest(inside, { ...identityOf(made), upper }, { signal });
  if (made.mounts.length > 0) await mountShared(inside, SHARED_TAG, made.mounts, { signal });
}

/** A saved guest's kernel has the image's blocks and its disk's in memory: both are what they were or of no use. */
async function binding(
  survey: Survey,
  made: Plan,
  image: ImageFiles,
  host: HostFacts,
): Promise<Readonly<Record<string, string>>> {
  const { accelerator, cpuModel, argv, memoryMib: memory, cpus, qemu, kernel, agent } = keyOf(made, host, survey);
  const cache = await FileCache.open(join(host.paths.state, "cache", "files.json"));
  const { digest } = await cache.identify(erofsPath(image));
  await cache.save();
  const { scratch } = sizeOf(made);
  // Not the boot, as a template is, which costs nothing to make anew: the tick rate is in the guest already.
  return {
    qemu,
    kernel,
    agent,
    image: image.digest,
    imageFile: digest,
    accelerator: accelerator.kind,
    cpuModel: fingerprint(cpuModel),
    commandLine: fingerprint(argv),
    memoryMib: `${memory}`,
    cpus: `${cpus}`,
    disk: `${scratch.bytes} bytes, ${scratch.inodes} inodes`,
  };
}

/** Booted guests have no control, and their memory is nobody's file. */
function checkpoint(known: Known, driver: Driver): Checkpoint {
  return {
    files: (made) => savedSizes(sizeOf(made)),
    binding: (made, image, host) => binding(known.survey, made, image, host),
    save: saveMachine,
    from: (dir, { hostname }) => ({
      ...driver,
      steps: (made, instance, image, host) =>
        steps(known, made, instance, image, host, { kind: "saved", dir, lasting: false }),
      provide: async (_made, image, help) => {
        const { ensureErofs } = await import("./provide.ts");
        await ensureErofs(image, help);
      },
      attachedBefore: () => "yes",
      afterAttach: async (_made, inside, signal) => {
        const { refreshGuest } = await import("../../guest/refresh.ts");
        await refreshGuest(inside, hostname, { signal });
      },
    }),
  };
}

function aside(known: Known, driver: Driver): LayerAside {
  return {
    device: LAYER_DEVICE,
    driver: {
      ...driver,
      provide: (made, image, help) => provideGuest(known, made, image, help),
      afterAttach: (made, inside, signal) => prepare(made, inside, signal, ASIDE_UPPER),
    },
  };
}

function surveyed(options: MicrovmOptions, found: Survey, arch: Architecture): Driver {
  const kvm = found.accelerator.kind === "kvm";
  const filters = new Map<Sharing, Filter>();
  // Made when first asked for: few start a sandbox of each kind.
  const filter = (sharing: Sharing): Filter => {
    const made = filters.get(sharing) ?? vmmFilter(arch, kvm, sharing);
    filters.set(sharing, made);
    return made;
  };
  const known: Known = { options, survey: found, kvm, filter, rooted: new WeakMap() };
  const bare: Driver = {
    ...unsurveyed(options, kvm),
    locate: (host) => noted(locate(host), host, found),
    plan: (spec, runtime, image, host) => plan(known, spec, runtime, image, host),
    steps: (made, instance, image, host) => steps(known, made, instance, image, host),
    explainEnd,
  };
  const driver: Driver = {
    ...bare,
    steps: (made, instance, image, host) => {
      const dir = known.rooted.get(made);
      return steps(known, made, instance, image, host, dir === undefined ? dir : { kind: "saved", dir, lasting: true });
    },
    provide: (made, image, help) => provide(known, bare, made, image, help),
    attachedBefore: (made) => (known.rooted.has(made) ? "answered" : "no"),
    afterAttach: async (made, inside, signal) => {
      if (!known.rooted.has(made)) return await prepare(made, inside, signal);
      await (await import("./rooted.ts")).refreshRooted(made, inside, signal);
    },
  };
  const layerAside = aside(known, bare);
  return options.templates
    ? { ...driver, layerAside, checkpoint: checkpoint(known, driver) }
    : { ...driver, layerAside };
}

function unsurveyed(options: MicrovmOptions, hardware: boolean): Driver {
  const unknown = (): never => {
    throw new BulkheadError("INTERNAL", { what: `${NAME} was not surveyed` });
  };
  return {
    level: "microvm",
    name: NAME,
    capabilities: {
      elevation: "setuid",
      ownKernel: true,
      hardware,
      diskThrottle: "monitor",
      layerWriter: "guest",
      freeze: true,
      checkpoint: options.templates,
      filtersRaisedPrivileges: true,
      recordsCalls: false,
      hostTaskOverhead: HOST_TASK_OVERHEAD,
    },
    defaultMemoryBytes: DEFAULT_MEMORY_BYTES,
    locate,
    plan: unknown,
    steps: unknown,
  };
}

/** A kernel of its own in a virtual machine made by QEMU, which runs in a jail. */
export function microvmDriver(options: MicrovmOptions, arch: string): Driver {
  return {
    ...unsurveyed(options, existsSync(KVM)),
    async survey(help) {
      const found = locate(help.host);
      if (!found.ok) refuse("microvm cannot be had", found.reason, found.remedy);
      return surveyed(options, await survey(help, found.runtime), arch as Architecture);
    },
  };
}
