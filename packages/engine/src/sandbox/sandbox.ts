import { BulkheadError, formatBytes, type Plan } from "@bulkhead/contract";
import type { Duplex } from "node:stream";
import type { Channel, PingOptions } from "../channel/channel.ts";
import { Malformed } from "../channel/codec.ts";
import type { EndReason } from "../drivers/driver.ts";
import type { Hello } from "../channel/wire.gen.ts";
import { Network } from "../egress/network.ts";
import { commandOf } from "../policy/program.ts";
import type { CallOptions, Inside, Running } from "./calls.ts";
import type { Copied, CopyOptions } from "./copy.ts";
import type { CopyOutOptions } from "./copy-out.ts";
import { dial, type DialTarget } from "./dial.ts";
import { untrustedText } from "./errors.ts";
import { type LimitHit, type SandboxEvent, SandboxEvents } from "./events.ts";
import { Execution } from "./exec.ts";
import type { Command, ExecOptions } from "./exec-request.ts";
import { Files } from "./files.ts";
import { type Freeze, Life } from "./life.ts";
import { limitHit, timeIsOver } from "./limit-events.ts";
import { type GuestPath, MAX_TIMEOUT_MS, whole } from "./names.ts";
import { publish, type PublishedPort, type PublishOptions } from "./publish.ts";
import type { Throttled } from "../system/keeper.ts";
import { listProcesses, type ProcessInfo, readUsage, type SandboxUsage, signalProcess } from "./processes.ts";
import { openPty, type Pty, type PtyOptions } from "./pty.ts";
import type { ForkOptions, Saver, SnapshotInfo } from "./saver.ts";
import type { SignalInput } from "./signals.ts";

/** The end of process 1, as the host saw it. */
export interface SandboxEnd {
  readonly code: number | null;
  readonly signal: string | null;
  /** The kernel killed for want of memory inside the sandbox's limit. */
  readonly oomKilled: boolean;
  /** Where more is known than how the process ended: a guest kernel's panic, with its console's last lines. */
  readonly reason?: EndReason | null;
}

export interface SandboxParts {
  readonly id: string;
  /** What others on this host find it by. Default: its id alone. */
  readonly name?: string | undefined;
  readonly plan: Plan;
  readonly channel: Channel;
  /** Where processes start unless told otherwise. Default: the user's home. */
  readonly workdir?: string | null;
  /** Default: none. */
  readonly network?: Network;
  /** Resolves, never rejects, when process 1 has ended. */
  readonly ended: Promise<SandboxEnd>;
  /** Absent or null where it cannot be paused. */
  readonly freeze?: Freeze | null;
  /** Absent where nobody can save it. */
  readonly save?: { readonly by: Saver; readonly running: Omit<Running, "inside"> } | undefined;
  readonly events?: SandboxEvents;
  /** Has the host count what limits were reached; resolves when that is among the events. Never rejects. */
  look?(): Promise<Throttled | null>;
  /** Ends everything that runs inside and undoes everything that was acquired for it. */
  release(): Promise<void>;
}

/** The channel's end of file comes some milliseconds before the host knows why. */
const EXPLAIN_WITHIN_MS = 500;
/** Programs are asked to end first. */
const SHUTDOWN_GRACE_MS = 2_000;
/** Besides, a guest's kernel writes out what it has cached, at the pace of the host's disk. */
const SHUTDOWN_WITHIN_MS = 30_000;

/** One running sandbox. `await using` ends it. */
export class Sandbox implements AsyncDisposable {
  readonly id: string;
  /** Its own among all that run; null where it was given none. */
  readonly name: string | null;
  /** Milliseconds since 1970. */
  readonly createdMs = Date.now();
  readonly plan: Plan;
  readonly files: Files;
  readonly network: Network;
  /** Resolves when process 1 has ended, by itself or by `kill`. */
  readonly ended: Promise<SandboxEnd>;
  readonly #channel: Channel;
  readonly #hello: Hello;
  readonly #release: () => Promise<void>;
  readonly #workdir: string | null;
  readonly #inside: Inside;
  readonly #life: Life;
  readonly #save: SandboxParts["save"];
  readonly #events: SandboxEvents;
  readonly #look: () => Promise<Throttled | null>;
  readonly #published = new Map<number, Promise<PublishedPort>>();
  #program: Execution | null = null;
  #killed: Promise<void> | null = null;
  #ending = false;

  constructor(parts: SandboxParts) {
    this.id = parts.id;
    this.name = parts.name ?? null;
    this.plan = parts.plan;
    this.ended = parts.ended;
    this.#channel = parts.channel;
    this.#hello = parts.channel.hello;
    this.#workdir = parts.workdir ?? null;
    this.#release = () => parts.release();
    this.#events = parts.events ?? new SandboxEvents();
    this.#look = async () => (await parts.look?.()) ?? null;
    void this.ended.then(() => this.#events.end());
    this.#inside = {
      channel: parts.channel,
      explain: (error) => this.#explain(error),
      look: async () => void (await this.#look()),
      ...outputLimitOf(parts.plan, this.#events),
    };
    this.files = new Files(this.#inside);
    const driver = parts.plan.driver;
    this.#life = new Life({ id: parts.id, channel: parts.channel, freeze: parts.freeze ?? null, driver });
    this.#save = parts.save;
    this.network = parts.network ?? new Network(null);
  }

  /** What the agent said of itself when it was attached to. Untrusted. */
  get guest(): { readonly agentVersion: string; readonly kernelRelease: string; readonly bootId: string } {
    const { agentVersion, kernelRelease, bootId } = this.#hello;
    return {
      agentVersion: untrustedText(agentVersion),
      kernelRelease: untrustedText(kernelRelease),
      bootId: untrustedText(bootId),
    };
  }

  /** Starts a process. The request is on its way when this returns. */
  exec(command: Command, options: ExecOptions = {}): Execution {
    return new Execution(this.#inside, { kind: "exec", command }, this.#placed(options));
  }

  /**
   * Starts the program that the image is for: its entrypoint with `args`, or with its own command where there are none.
   * `stop` ends the latest.
   * @throws BulkheadError COMMAND_MISSING
   */
  run(args: readonly string[] = [], options: ExecOptions = {}): Execution {
    this.#program = this.exec(commandOf(this.plan, args), options);
    return this.#program;
  }

  /**
   * Asks the program that `run` started to end, by its image's stop signal, and ends the sandbox when it has or after
   * `timeoutMs`, by default what the plan says.
   */
  async stop(options: { readonly timeoutMs?: number } = {}): Promise<void> {
    const { signal, timeoutMs } = this.plan.process.stop;
    const program = this.#killed === null ? this.#program : null;
    if (program !== null) {
      program.kill(signal, { group: false });
      const ended = program.exit.then(
        () => null,
        () => null,
      );
      await within(ended, whole(options.timeoutMs ?? timeoutMs, "timeoutMs", 0, MAX_TIMEOUT_MS));
    }
    await this.kill();
  }

  /**
   * Listens to a process that `exec` started. Output that came while nobody listened is lost. `signal` and `timeoutMs` end
   * the listening, not the process.
   */
  connect(
    pid: number,
    options: Pick<ExecOptions, "signal" | "timeoutMs" | "maxOutputBytes" | "check" | "drainGraceMs"> = {},
  ): Execution {
    return new Execution(this.#inside, { kind: "connect", pid }, options);
  }

  /** A process at a terminal; an interactive shell by default. */
  async pty(options: PtyOptions = {}): Promise<Pty> {
    return openPty(this.#inside, this.#placed(options));
  }

  /** Copies a file or a tree of the host's to a path inside. See `copyIn` in copy-in.ts for what becomes of it. */
  async copyIn(from: string, to: GuestPath, options: CopyOptions = {}): Promise<Copied> {
    return await (await import("./copy-in.ts")).copyIn(this.files, from, to, options);
  }

  /** Copies a file or a tree from inside to an absolute path of the host's where nothing is yet. See copy-out.ts. */
  async copyOut(from: GuestPath, to: string, options: CopyOutOptions = {}): Promise<Copied> {
    return await (await import("./copy-out.ts")).copyOut(this, from, to, options);
  }

  /** The agent has said what it cannot mean, which ends the sandbox. @returns what to fail with */
  distrust(why: string): Promise<BulkheadError> {
    this.#channel.violation(new Malformed(why));
    return this.#channel.closed;
  }

  async processes(options: CallOptions = {}): Promise<ProcessInfo[]> {
    return listProcesses(this.#inside, options);
  }

  /** Any process inside, by its pid there. Default: that process alone, not its group. */
  async signal(
    pid: number,
    signal: SignalInput,
    options: CallOptions & { readonly group?: boolean } = {},
  ): Promise<void> {
    return signalProcess(this.#inside, pid, signal, options);
  }

  async usage(options: CallOptions = {}): Promise<SandboxUsage> {
    const [inside, throttled] = await Promise.all([readUsage(this.#inside, options), this.#look()]);
    return { ...inside, ...(throttled !== null && { throttledMs: Math.round(throttled.throttledUs / 1000) }) };
  }

  /**
   * What happens to the sandbox, from its beginning on; ends with the sandbox. Who listens late or slowly misses the
   * oldest beyond 256.
   */
  events(): AsyncGenerator<SandboxEvent, void, undefined> {
    return this.#events.listen();
  }

  /** The limits that were reached until now, the oldest first. Of a program that failed for one it is there before its exit. */
  async limitsReached(): Promise<readonly LimitHit[]> {
    await this.#look();
    return this.#events.kept.filter((event) => event.kind === "limit-hit");
  }

  /** Milliseconds since something last came or went on a stream of the sandbox. */
  get idleMs(): number {
    return performance.now() - this.#channel.activeAt;
  }

  /** Ends the sandbox for a limit on its time, which is among its events and the reason of all that fails. */
  async endFor(limit: "timeout" | "idle", ms: number): Promise<void> {
    if (this.#killed === null) this.#events.emit(limitHit(limit, this.plan.limits, { what: "sandbox" }));
    await this.kill(timeIsOver(limit, ms));
  }

  /** @returns the round trip to the agent, in milliseconds. */
  async ping(options: PingOptions = {}): Promise<number> {
    return this.#channel.ping(options);
  }

  /** Connects to a TCP port or a Unix socket inside. */
  async dial(target: DialTarget, options: CallOptions = {}): Promise<Duplex> {
    return dial(this.#inside, target, options);
  }

  /** Whether it is paused. */
  get paused(): boolean {
    return this.#life.paused;
  }

  /**
   * Stops everything inside where it stands: no processor time is used, no output comes, memory stays. Until `resume` calls
   * fail with SANDBOX_PAUSED, those under way wait, and limits of time go on. `kill` works. A paused one may be paused again.
   *
   * @throws BulkheadError NOT_SUPPORTED, RUNTIME_FAILED (it goes on then), SANDBOX_GONE
   */
  pause(): Promise<void> {
    return this.#life.pause();
  }

  /** Lets everything go on where it stood. One that is not paused stays as it is. @throws as `pause`. */
  resume(): Promise<void> {
    return this.#life.resume();
  }

  /**
   * Saves memory and writable layer while the sandbox, stopped for a moment, goes on; `Engine.restore` makes others of it.
   * The files hold whatever was in its memory, secrets too, and are root's alone.
   *
   * @param where a name, kept in the engine's state directory, or an absolute path that does not exist
   * @throws BulkheadError NOT_SUPPORTED, SNAPSHOT_EXISTS, SANDBOX_PAUSED, HOST_RESOURCE, RUNTIME_FAILED, ABORTED
   */
  snapshot(where: string, options: CallOptions = {}): Promise<SnapshotInfo> {
    return this.#saved("saved", (saver, running) => saver.snapshot(running, where, options));
  }

  /**
   * Copies of this sandbox as it is now, each on its own from here on; this one goes on. Processes go on in all of them,
   * with the ids they have here: `connect` finds them. When one copy cannot be had there is none.
   *
   * @throws BulkheadError as `snapshot` and `Engine.create`
   */
  fork(count = 1, options: ForkOptions = {}): Promise<Sandbox[]> {
    return this.#saved("forked", (saver, running) => saver.fork(running, count, options));
  }

  async #saved<T>(done: string, work: (saver: Saver, running: Running) => Promise<T>): Promise<T> {
    const save = this.#save;
    if (save === undefined) {
      const what = `sandbox ${this.id} cannot be ${done}`;
      throw new BulkheadError("NOT_SUPPORTED", { what, why: "nobody here can make another one of it" });
    }
    try {
      return await this.#life.whileRunning(() => work(save.by, { ...save.running, inside: this.#inside }));
    } catch (error) {
      // One that was stopped and does not go on would look like one that hangs.
      if (error instanceof BulkheadError && error.code === "SANDBOX_GONE")
        await this.kill(error).catch(() => undefined);
      throw error;
    }
  }

  /** Makes a TCP port inside reachable on this host, on 127.0.0.1 unless told otherwise, for as long as the sandbox lives. */
  async publish(port: number, options: PublishOptions = {}): Promise<PublishedPort> {
    return publish(this.#inside, port, options);
  }

  /** Where a program on this host finds what listens on that port inside: `http://127.0.0.1:40123`. Published at the first call. */
  async url(port: number): Promise<string> {
    const published = this.#published.get(port) ?? this.publish(port);
    this.#published.set(port, published);
    published.catch(() => this.#published.delete(port));
    return (await published).url;
  }

  /**
   * Ends the sandbox and waits until nothing of it is left. Idempotent; everything under way rejects with `reason`, by
   * default SANDBOX_GONE.
   */
  kill(reason?: BulkheadError): Promise<void> {
    this.#killed ??= this.#end(reason);
    return this.#killed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  #placed<O extends { readonly cwd?: string }>(options: O): O {
    const cwd = options.cwd ?? this.#workdir;
    return cwd === null ? options : { ...options, cwd };
  }

  async #end(reason?: BulkheadError): Promise<void> {
    this.#ending = true;
    if ((this.plan.layer?.keep ?? null) !== null) await this.#shutDown();
    this.#channel.close(reason ?? new BulkheadError("SANDBOX_GONE", { what: `sandbox ${this.id} was ended` }));
    await this.#release();
  }

  /** What its programs and its kernel have yet to write reaches the layer, as when a machine is turned off properly. */
  async #shutDown(): Promise<void> {
    try {
      if (this.paused) await this.resume();
      this.#channel.shutdown(SHUTDOWN_GRACE_MS);
      await within(Promise.race([this.ended, this.#channel.closed]), SHUTDOWN_WITHIN_MS);
    } catch {
      // One that cannot be told any more is ended all the same.
    }
  }

  async #explain(error: BulkheadError): Promise<BulkheadError> {
    if (error.code !== "SANDBOX_GONE" || this.#ending) return error;
    const end = await within(this.ended, EXPLAIN_WITHIN_MS);
    const outOfMemory = end?.oomKilled === true || this.#wasKilledForMemory();
    if (end === null && !outOfMemory) return error;
    const reason = end?.reason ?? null;
    const memory = formatBytes(this.plan.limits?.memoryBytes ?? 0);
    const why =
      reason?.why ??
      (outOfMemory ? `it used more memory than its limit of ${memory}` : `its first process ${howEnded(end)}`);
    const next = reason?.next ?? (outOfMemory ? "give it more memory" : undefined);
    return new BulkheadError("SANDBOX_GONE", {
      what: `sandbox ${this.id} is gone`,
      why,
      ...(next !== undefined && { next }),
      details: { ...end, ...(outOfMemory && { limit: "memory" }) },
      cause: error,
    });
  }

  /** Known before the end itself where that takes its time: a kernel in user space gives back its memory first. */
  #wasKilledForMemory(): boolean {
    return this.#events.kept.some(({ limit, killed }) => limit === "memory" && killed?.what === "sandbox");
  }
}

function howEnded(end: SandboxEnd | null): string {
  return end?.signal == null ? `exited with ${end?.code}` : `was ended by ${end.signal}`;
}

function outputLimitOf({ limits }: Plan, events: SandboxEvents): Pick<Inside, "output"> {
  const maxBytes = limits?.outputMaxBytes ?? null;
  if (maxBytes === null) return {};
  const reached = (pid: number | null): void =>
    events.emit(limitHit("output", limits, { what: "process", pid, hostPid: null, command: null }));
  return { output: { maxBytes, reached } };
}

async function within<T>(promise: Promise<T>, ms: number): Promise<T | null> {
  const late = Promise.withResolvers<null>();
  const timer = setTimeout(() => late.resolve(null), ms);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
