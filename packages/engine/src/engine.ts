import {
  BulkheadError,
  parseSandboxName,
  parseSpec,
  planDigest,
  type Plan,
  type Spec,
  type SpecInput,
  type Step,
} from "@bulkhead/contract";
import { ControlPoint } from "./control/point.ts";
import { loadDrivers } from "./drivers/registry.ts";
import type { Driver } from "./drivers/driver.ts";
import type { DoctorReport } from "./doctor.ts";
import type { EgressHandler } from "./egress/guest.ts";
import type { Outside } from "./egress/outside.ts";
import type { WayOut } from "./egress/way-out.ts";
import { gatherFacts, type HostFacts } from "./host/facts.ts";
import { configOf, type Directories } from "./host/index.ts";
import { probe } from "./host/probe.ts";
import { requirePassable } from "./host/run-dir.ts";
import { obtainImage, type PullChoice } from "./image/obtain.ts";
import { ImageStore } from "./image/store.ts";
import { KeptLayers } from "./layer/kept.ts";
import { resolveSpec } from "./policy/defaults.ts";
import { absentFrom, landings } from "./policy/landing.ts";
import { chooseLayer } from "./policy/layer.ts";
import { checkMounts } from "./policy/mounts.ts";
import { commandOf } from "./policy/program.ts";
import { resolveLevel, type Candidate, type Choice } from "./policy/resolve.ts";
import { networkForbidden, refuseWithoutRoot, requireRecording } from "./refusals.ts";
import type { Saver } from "./sandbox/saver.ts";
import type { Sandbox } from "./sandbox/sandbox.ts";
import { openSandbox } from "./sandbox/open.ts";
import { watchTime } from "./sandbox/time-limits.ts";
import type { RestoreOptions } from "./snapshot/restore.ts";
import type { Origin, Workshop } from "./snapshot/saver.ts";
import { SnapshotStore } from "./snapshot/store.ts";
import { Keeper } from "./system/keeper.ts";
import { VolumeStore } from "./volume/store.ts";

export interface EngineOptions extends Directories {
  /** Only these drivers, by name (`container/runc`): for a test of one, or a host that must not use another. Default: all. */
  readonly drivers?: readonly string[];
  /** False boots each guest at the microvm level instead of waking a clone of one that was booted before. Default: true. */
  readonly templates?: boolean;
  /** Answers what programs of a sandbox with a network ask of the outside, in place of the policy's own judge. */
  readonly egress?: (plan: Plan) => EgressHandler;
  /** False: no sandbox is given a network, whatever its spec asks for. Default: true. */
  readonly network?: boolean;
  /** Where names are resolved and connections made. Default: this host. */
  readonly outside?: Outside;
  /** Aborts the opening. */
  readonly signal?: AbortSignal;
}

export interface CallOptions {
  readonly signal?: AbortSignal;
  /** Told what takes long at a first use, one line each, for people. */
  readonly onProgress?: (text: string) => void;
}

export interface CreateOptions extends CallOptions, PullChoice {
  /** Only a sandbox in which `exec` can record system calls. */
  readonly recording?: boolean;
  /** Only of an image that says what runs, or with an entrypoint: `run` of the sandbox needs no arguments then. */
  readonly runnable?: boolean;
  /** What other processes of this host find it by, beside its id: 1 to 63 of a-z, 0-9, `.`, `_` and `-`, its own while it runs. */
  readonly name?: string;
}

export interface Explanation {
  readonly plan: Plan;
  /** What the keeper would carry out, for a sandbox named by placeholders. */
  readonly steps: readonly Step[];
  /** `sha256:` over the plan's canonical JSON. */
  readonly digest: string;
  /** What can be done to the sandbox as a whole: pause and resume it, save it with its memory. */
  readonly can: { readonly pause: boolean; readonly snapshot: boolean };
}

const NO_FILTER = new Uint8Array();

function isAborted(signal: AbortSignal | undefined): signal is AbortSignal {
  return signal?.aborted === true;
}

function aborted(what: string, signal: AbortSignal): BulkheadError {
  return new BulkheadError("ABORTED", { what: `${what} was called off`, cause: signal.reason });
}

/**
 * Where sandboxes of this machine run. `await using` ends every sandbox it made.
 *
 *     await using engine = await Engine.open();
 *     await using box = await engine.create({ isolation: "gvisor" });
 *     const { text } = await box.exec(["python3", "-c", "print(1)"]);
 */
export class Engine implements AsyncDisposable {
  readonly images: ImageStore;
  readonly snapshots: SnapshotStore;
  readonly volumes: VolumeStore;
  /** Writable layers that stay after their sandbox. */
  readonly kept: KeptLayers;
  readonly host: HostFacts;
  #drivers: readonly Driver[];
  readonly #surveys = new Map<Driver, Promise<Driver>>();
  readonly #boxes = new Set<Sandbox>();
  readonly #options: EngineOptions;
  readonly #control: ControlPoint;
  #keeper: Promise<Keeper> | undefined;

  private constructor(host: HostFacts, drivers: readonly Driver[], options: EngineOptions) {
    this.host = host;
    this.#options = options;
    this.#drivers = drivers;
    this.#control = new ControlPoint(host.paths.run, this.#boxes);
    this.images = new ImageStore(host.paths.state);
    this.snapshots = new SnapshotStore(host.paths.state);
    this.volumes = new VolumeStore(host.paths.state);
    this.kept = new KeptLayers(host.paths.state);
  }

  /** @throws BulkheadError HOST_NOT_ROOT, HOST_UNSUPPORTED, HOST_RESOURCE, ABORTED, SPEC_INVALID (a path not absolute, an unknown driver). */
  static async open(options: EngineOptions = {}): Promise<Engine> {
    refuseWithoutRoot();
    const { signal } = options;
    if (isAborted(signal)) throw aborted("opening the engine", signal);
    try {
      const host = await gatherFacts(configOf(options), signal);
      requirePassable(host.paths.run);
      return new Engine(
        host,
        chosen(await loadDrivers(host, { templates: options.templates ?? true }), options.drivers),
        options,
      );
    } catch (error) {
      // What was thrown may be the signal's own reason, of whatever class.
      throw isAborted(signal) ? aborted("opening the engine", signal) : error;
    }
  }

  /** Every driver with what it found on this host, preferred first within a level. */
  get candidates(): readonly Candidate<Driver>[] {
    return this.#drivers.map((driver) => ({ driver, availability: driver.locate(this.host) }));
  }

  /** One for this process, started by the first sandbox. */
  #keep(signal?: AbortSignal): Promise<Keeper> {
    const { keeper: path, run: runDir } = this.host.paths;
    if (this.#keeper === undefined) {
      const started = Keeper.start({ path, runDir, ...(signal !== undefined && { signal }) });
      started.catch(() => (this.#keeper = undefined));
      this.#keeper = started;
    }
    return this.#keeper;
  }

  /** Both are built, not downloaded, so they can be missing. */
  #requireBinaries(): void {
    const { digests, paths } = this.host;
    const absent = digests.agent === "" ? paths.agent : digests.keeper === "" ? paths.keeper : undefined;
    if (absent === undefined) return;
    throw new BulkheadError("HOST_UNSUPPORTED", {
      what: `${absent} is missing`,
      why: "it is built from source on first use, and is not there",
      next: "run ./x setup in the repository, or cargo build --release",
    });
  }

  /**
   * A driver is chosen by what it found, and then has to have shown once since boot that it can start something here; if
   * it cannot, the choice is made again without it.
   */
  async #choose(spec: Spec, options: CallOptions): Promise<Choice<Driver>> {
    const { signal } = options;
    let candidates = this.candidates;
    for (;;) {
      const choice = resolveLevel(spec, candidates);
      const { driver } = choice;
      const settled = await this.#settle(driver, options);
      if (settled !== driver) {
        const availability = settled.locate(this.host);
        candidates = candidates.map((one) => (one.driver === driver ? { driver: settled, availability } : one));
        continue;
      }
      const keeper = (): Promise<Keeper> => this.#keep();
      const availability = await probe({ driver, host: this.host, keeper, ...(signal !== undefined && { signal }) });
      if (availability.ok) return choice;
      candidates = candidates.map((one) => (one.driver === driver ? { driver, availability } : one));
    }
  }

  /** A driver that has found out what only trying tells; asked once. */
  async #settle(driver: Driver, options: CallOptions): Promise<Driver> {
    if (driver.survey === undefined) return driver;
    const help = { host: this.host, keeper: () => this.#keep(), ...options };
    const asked = this.#surveys.get(driver) ?? driver.survey(help);
    this.#surveys.set(driver, asked);
    try {
      const settled = await asked;
      this.#drivers = this.#drivers.map((one) => (one === driver ? settled : one));
      return settled;
    } catch (error) {
      this.#surveys.delete(driver);
      throw error;
    }
  }

  async #prepare(whole: Spec, options: CreateOptions): Promise<Origin> {
    // No driver, no plan and nothing that is saved sees the secrets.
    const { secrets = [], ...spec } = whole;
    const edge = secrets.length > 0 || spec.proxyVariables === true ? await import("./policy/edge.ts") : null;
    edge?.checkEdge(whole);
    // Whatever is wrong with the request is said before anything is started, a probe included.
    if (this.#options.network === false && spec.network !== "none") throw networkForbidden();
    resolveLevel(spec, this.candidates);
    if (spec.seccomp !== undefined) (await import("./seccomp/apply.ts")).checkProfile(spec.seccomp, this.host);
    const image = await obtainImage(this.images, spec.image, this.#options, options);
    const { state, run } = this.host.paths;
    const volumes = await landings(await this.volumes.attached(spec.volumes), image.rootfs);
    const mounts = await checkMounts(await landings(spec.mounts, image.rootfs), [state, run], volumes);
    const { driver, runtime, ...choice } = await this.#choose(spec, options);
    const sized = await this.kept.sized(spec, { image: image.digest, writer: driver.capabilities.layerWriter });
    const limited = resolveSpec(sized, choice, this.host, image.config, driver.defaultMemoryBytes);
    const { workdir, volumes: data } = image.config;
    const makes = await absentFrom(image.rootfs, [...(spec.workdir === undefined ? [workdir] : []), ...data], mounts);
    const found = { ...limited, mounts, makes };
    const chosen = await chooseLayer(found, driver.capabilities, this.host);
    const { level: _level, levelReason: _reason, program: _program, ...rest } = limited;
    const { diskBytes, diskInodes } = chosen;
    const asked = { ...spec, ...rest, diskBytes, diskInodes, mounts: spec.mounts };
    const planned = driver.plan({ ...found, ...chosen }, runtime, image, this.host);
    const plan = edge?.withEdge(planned, whole) ?? planned;
    const origin = { driver, image, spec: asked, secrets };
    if (spec.seccomp === undefined) return { ...origin, plan, filter: NO_FILTER };
    const { applyProfile } = await import("./seccomp/apply.ts");
    return { ...origin, ...applyProfile(plan, spec.seccomp, driver, this.host) };
  }

  /**
   * What `create` would do with the same spec on this host. Starts nothing, but for one empty sandbox when the driver has
   * not yet shown since boot that it can.
   * @throws as `create` does before it starts anything.
   */
  async explain(input: SpecInput): Promise<Explanation> {
    const { driver, plan, image } = await this.#prepare(parseSpec(input), {});
    const id = "SANDBOX";
    const instance = { id, dir: `${this.host.paths.run}/ENGINE/${id}`, idBase: 0, cgroup: `bulkhead/ENGINE/${id}` };
    const { freeze, checkpoint } = driver.capabilities;
    const can = { pause: freeze, snapshot: checkpoint };
    return { plan, steps: driver.steps(plan, instance, image, this.host), digest: await planDigest(plan), can };
  }

  /**
   * Starts a sandbox. When it cannot be had exactly as asked for, nothing is started and nothing is left behind.
   * @throws BulkheadError SPEC_INVALID, POLICY_REFUSED, LEVEL_UNAVAILABLE, IMAGE_NOT_FOUND, IMAGE_INVALID, IMAGE_REFUSED,
   * IMAGE_DENIED, IMAGE_PULL_FAILED, MOUNT_INVALID, COMMAND_MISSING, VOLUME_NOT_FOUND, VOLUME_IN_USE, VOLUME_INVALID,
   * RUNTIME_FAILED, HOST_UNSUPPORTED, HOST_RESOURCE, KEEPER_FAILED, CHANNEL_PROTOCOL, ABORTED.
   */
  async create(input: SpecInput, options: CreateOptions = {}): Promise<Sandbox> {
    const { signal } = options;
    const spec = parseSpec(input);
    if (options.name !== undefined) parseSandboxName(options.name);
    if (isAborted(signal)) throw aborted("the sandbox's start", signal);
    this.#requireBinaries();
    const origin = await this.#prepare(spec, { pull: "missing", ...options });
    if (options.recording === true) requireRecording(origin.driver);
    if (options.runnable === true) commandOf(origin.plan, []);
    return await this.#start(origin, origin.driver, options);
  }

  /**
   * Starts a sandbox that goes on from a snapshot, with the limits of the one that was saved and a time limit that begins
   * anew. It differs from it in random numbers, ids and host name; its processes keep what they had drawn before.
   * @throws BulkheadError as `create`; SNAPSHOT_NOT_FOUND, SNAPSHOT_INVALID, SNAPSHOT_MISMATCH, NOT_SUPPORTED
   */
  async restore(where: string, options: RestoreOptions = {}): Promise<Sandbox> {
    if (isAborted(options.signal)) throw aborted("the restoring", options.signal);
    this.#requireBinaries();
    const { restoreSnapshot } = await import("./snapshot/restore.ts");
    const prepare = (spec: Spec): Promise<Origin> => this.#prepare(spec, options);
    const restorer = { ...this.#workshop(), candidates: this.candidates, keeper: () => this.#keep(), prepare };
    return await restoreSnapshot(restorer, where, options);
  }

  #workshop(): Workshop {
    const { host, snapshots: store } = this;
    return {
      host,
      store,
      start: (origin, driver, options) => this.#start(origin, driver, options),
    };
  }

  /** What can save a sandbox, loaded when that is first asked for. */
  #saver(origin: Origin): Saver {
    const load = () => import("./snapshot/saver.ts");
    return {
      snapshot: async (...rest) => (await load()).snapshot(this.#workshop(), origin, ...rest),
      fork: async (...rest) => (await load()).fork(this.#workshop(), origin, ...rest),
    };
  }

  async #start(origin: Origin, driver: Driver, options: CallOptions & { readonly name?: string }): Promise<Sandbox> {
    const { plan, image } = origin;
    const { signal, onProgress, name } = options;
    const keeper = await this.#keep();
    await using failed = new AsyncDisposableStack();
    const claimed =
      name === undefined ? null : failed.use(await this.#control.claim(name, keeper.hello.engine, signal));
    // The keeper outlives this process for as long as it still has mounts of the image.
    const held = this.images.use(image.digest, keeper.hello.pid);
    const wayOut = await this.#wayOut(origin);
    failed.defer(() => wayOut?.[Symbol.dispose]());
    const box = await openSandbox({
      keeper,
      driver,
      plan,
      image,
      host: this.host,
      held,
      filter: origin.filter,
      saver: this.#saver(origin),
      name,
      ...(wayOut !== null && { wayOut }),
      ...(onProgress && { onProgress }),
      ...(signal !== undefined && { signal }),
    });
    failed.move();
    void box.ended.then(() => wayOut?.[Symbol.dispose]());
    void box.ended.then(() => claimed?.[Symbol.asyncDispose]());
    this.#watch(box);
    // One without a name is found by who looks for it a moment later; nobody waits for that here.
    if (claimed === null) void this.#control.listen(keeper.hello.engine).catch(() => undefined);
    return box;
  }

  /** What answers a sandbox's traffic; null where it has no network. */
  async #wayOut(origin: Origin): Promise<WayOut | null> {
    const { plan } = origin;
    if (plan.network === "none") return null;
    const { egress, outside } = this.#options;
    const { handlerAlone, makeWayOut } = await import("./egress/way-out.ts");
    if (egress !== undefined) return handlerAlone(egress(plan));
    const { resolvers } = configOf(this.#options);
    const { rootfs } = origin.image;
    const { network: policy, mounts, proxyVariables: proxy = false } = plan;
    return await makeWayOut({ policy, resolvers, outside, secrets: origin.secrets, proxy, rootfs, mounts });
  }

  #watch(box: Sandbox): void {
    this.#boxes.add(box);
    const timers = watchTime(box);
    void box.ended.then(() => {
      timers[Symbol.dispose]();
      this.#boxes.delete(box);
    });
  }

  /** What every driver can do here, found out by starting a sandbox with each that is installed. */
  async doctor(options: CallOptions = {}): Promise<DoctorReport> {
    this.#requireBinaries();
    const { examine } = await import("./doctor.ts");
    const keeper = await this.#keep();
    for (const { driver, availability } of this.candidates) if (availability.ok) await this.#settle(driver, options);
    return examine({ host: this.host, candidates: this.candidates, keeper, ...options });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#boxes].map((box) => box.kill()));
    await this.#control[Symbol.asyncDispose]();
    const keeper = await this.#keeper?.catch(() => undefined);
    await keeper?.[Symbol.asyncDispose]();
  }
}

function chosen(all: readonly Driver[], names: readonly string[] | undefined): readonly Driver[] {
  if (names === undefined) return all;
  const unknown = names.find((name) => !all.some((driver) => driver.name === name));
  if (unknown === undefined) return all.filter((driver) => names.includes(driver.name));
  throw new BulkheadError("SPEC_INVALID", {
    what: `there is no driver ${JSON.stringify(unknown)}`,
    next: `name one of ${all.map((driver) => driver.name).join(", ")}`,
  });
}
