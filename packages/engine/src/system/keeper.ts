import { spawn, type ChildProcess } from "node:child_process";
import type { Duplex } from "node:stream";
import { BulkheadError, type Step } from "@bulkhead/contract";
import type { Instance } from "../drivers/driver.ts";
import {
  readAnswer,
  readEnded,
  readFileDigest,
  readHello,
  readInstance,
  readKhz,
  readLimit,
  readLine,
  readOutput,
  readThrottled,
  readTimes,
  type KeeperEnded,
  type KeeperLimit,
  type Throttled,
} from "./keeper-wire.ts";
import { splitLines } from "./lines.ts";

export type { KeeperEnded, KeeperLimit, Throttled } from "./keeper-wire.ts";

const GENERATION = 1;
/** The end of a process that closed its socket is known within milliseconds. */
const LAST_WORDS_MS = 500;
/** Answers carry at most two captured outputs of 1 MiB, JSON-escaped. */
const MAX_LINE_BYTES = 16 * 1024 * 1024;
/** Undoing a sandbox is bounded to about 10 s in the keeper; the end of all of them, eight at a time, gets this long. */
const END_TIMEOUT_MS = 60_000;
const CONTROL_FD = 3;
/** The keeper's own complaints are a line each. */
const STDERR_TAIL_CHARS = 4096;

export interface KeeperHello {
  readonly version: string;
  readonly engine: string;
  readonly pid: number;
}

export interface ProgramRequest {
  /** The first entry is an absolute path. */
  readonly argv: readonly string[];
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
  /** How much of standard output is kept (its end), at most 1 MiB. */
  readonly maxOutputBytes?: number;
}

export interface KeeperOutput {
  readonly code: number | null;
  readonly signal: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: BulkheadError) => void;
}

export interface KeeperOptions {
  readonly path: string;
  /** Run directory, absolute; made when absent. */
  readonly runDir: string;
  readonly signal?: AbortSignal;
}

/**
 * The host-side helper of this engine process. It holds all that sandboxes acquire and undoes it when told, and when this
 * process is gone. Every method rejects with BulkheadError KEEPER_FAILED once the keeper has ended.
 */
export class Keeper implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #socket: Duplex;
  readonly #waiting = new Map<number, Waiting>();
  readonly #listeners = new Map<string, (ended: KeeperEnded) => void>();
  readonly #limitListeners = new Map<string, (news: KeeperLimit) => void>();
  readonly #closed = Promise.withResolvers<void>();
  #nextId = 1;
  #state: { readonly kind: "open" } | { readonly kind: "failed"; readonly error: BulkheadError } = { kind: "open" };
  #stderr = "";
  #hello: KeeperHello = { version: "", engine: "", pid: 0 };

  private constructor(child: ChildProcess, socket: Duplex) {
    this.#child = child;
    this.#socket = socket;
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-STDERR_TAIL_CHARS);
    });
    child.once("error", (error) => {
      this.#fail(error.message, error);
      this.#closed.resolve();
    });
    let lastWords: NodeJS.Timeout | undefined;
    child.once("close", (code, signal) => {
      clearTimeout(lastWords);
      this.#fail(signal === null ? `it ended with code ${code}` : `it was ended by ${signal}`);
      this.#closed.resolve();
    });
    socket.on("error", (error) => {
      // A keeper that has ended said why on its standard error, which "close" comes after.
      lastWords ??= setTimeout(() => this.#fail(error.message, error), LAST_WORDS_MS);
    });
    splitLines(socket, MAX_LINE_BYTES, {
      line: (text) => this.#receive(text),
      // The reason for an end of the stream is the process's own, which "close" brings.
      end: () => undefined,
      tooLong: () => this.#distrust(`a line is longer than ${MAX_LINE_BYTES} bytes`),
    });
  }

  /**
   * @throws BulkheadError KEEPER_FAILED when it cannot be started or is of another generation; HOST_NOT_ROOT without the
   * rights it needs.
   */
  static async start(options: KeeperOptions): Promise<Keeper> {
    options.signal?.throwIfAborted();
    if (process.getuid?.() !== 0) {
      throw new BulkheadError("HOST_NOT_ROOT", {
        what: "sandboxes on this host need root",
        why: "mounts, control groups and id ranges are made by the keeper, which this user may not start",
        next: "run the same command with sudo",
      });
    }
    const child = spawn(options.path, ["--run", options.runDir], {
      stdio: ["ignore", "ignore", "pipe", "pipe"],
      env: {},
      cwd: "/",
      // A Ctrl-C at the terminal must reach the engine only: it decides what happens to the sandboxes.
      detached: true,
    });
    const keeper = new Keeper(child, child.stdio[CONTROL_FD] as Duplex);
    const { generation, ...hello } = await keeper.#greet(options.path);
    if (generation !== GENERATION) {
      await keeper[Symbol.asyncDispose]();
      throw new BulkheadError("KEEPER_FAILED", {
        what: `${options.path} speaks generation ${generation}, this engine ${GENERATION}`,
        next: "build the keeper from the same source as the engine",
      });
    }
    keeper.#hello = hello;
    return keeper;
  }

  get hello(): KeeperHello {
    return this.#hello;
  }

  /** A directory, control group and id range for one sandbox; given back by `release`. */
  async reserve(): Promise<Instance> {
    return readInstance(await this.#request({ op: "reserve" }));
  }

  /**
   * Carries the steps out in order. When one fails, all is undone and the instance is gone.
   *
   * @returns when each step was done, µs from the first one's start.
   * @throws BulkheadError RUNTIME_FAILED (or HOST_RESOURCE) whose details name the step's index, `op` and `errno`.
   */
  async acquire(instance: Instance, steps: readonly Step[]): Promise<readonly number[]> {
    return readTimes(await this.#request({ op: "acquire", instance: instance.id, steps }));
  }

  /** Says that the engine has opened its ends of the channel: from now on the agent sees when they are closed. */
  async settled(instance: Instance): Promise<void> {
    await this.#request({ op: "settled", instance: instance.id });
  }

  /** Counts what limits the sandbox has reached; who listens has been told when this resolves. */
  async look(instance: Instance): Promise<Throttled> {
    return readThrottled(await this.#request({ op: "look", instance: instance.id }));
  }

  /** Calls back whenever the host sees the sandbox reach a limit, until it is released. */
  onLimit(instance: Instance, listener: (news: KeeperLimit) => void): void {
    this.#limitListeners.set(instance.id, listener);
  }

  /** Undoes all that was acquired. An acquire under way is called off. Fails when something is left over. */
  async release(instance: Instance): Promise<void> {
    this.#listeners.delete(instance.id);
    this.#limitListeners.delete(instance.id);
    await this.#request({ op: "release", instance: instance.id });
  }

  /**
   * Stops all that runs in a sandbox where it stands, or lets it go on; either may be asked for twice.
   *
   * @throws BulkheadError RUNTIME_FAILED when it cannot be stopped; all of it goes on then.
   */
  async freeze(instance: Instance, frozen: boolean): Promise<void> {
    await this.#request({ op: "freeze", instance: instance.id, frozen });
  }

  /**
   * Writes what a sandbox's first process has made of the memory file and the nameless disk it was given to `memory` and
   * `disk` in a directory that is root's alone. The process holds still meanwhile; a release calls it off.
   *
   * @throws BulkheadError RUNTIME_FAILED, HOST_RESOURCE; parts of the files may be there then.
   */
  async capture(instance: Instance, into: string): Promise<void> {
    await this.#request({ op: "capture", instance: instance.id, into });
  }

  /** Size and digest (`sha256:` and hex, of the keeper's own making) of a file; holes cost nothing. */
  async digest(path: string): Promise<{ readonly bytes: number; readonly digest: string }> {
    return readFileDigest(await this.#request({ op: "digest", path }));
  }

  /** Runs one program to its end, with the keeper's view of the host. */
  async run(program: ProgramRequest): Promise<KeeperOutput> {
    return readOutput(await this.#request({ op: "run", ...program }));
  }

  /** How fast the processor's time stamp counter runs, in kHz, to some 10 parts in a million. Takes 100 ms. */
  async counterKhz(): Promise<number> {
    return readKhz(await this.#request({ op: "counter" }));
  }

  /** Calls back once, when the sandbox's first process ends by itself or the keeper does. */
  onEnded(instance: Instance, listener: (ended: KeeperEnded) => void): void {
    this.#listeners.set(instance.id, listener);
    if (this.#state.kind === "failed") this.#lose(instance.id);
  }

  /** Lets the keeper undo everything and waits for its end (at most a minute). */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.end();
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), END_TIMEOUT_MS);
    await this.#closed.promise;
    clearTimeout(timer);
    this.#socket.destroy();
  }

  /** Lets the process end while the keeper is idle: it then undoes everything by itself. */
  unref(): void {
    this.#child.unref();
    (this.#socket as Duplex & { unref?: () => void }).unref?.();
    (this.#child.stderr as (NodeJS.ReadableStream & { unref?: () => void }) | null)?.unref?.();
  }

  async #greet(path: string): Promise<ReturnType<typeof readHello>> {
    try {
      return readHello(await this.#request({ op: "hello" }));
    } catch (cause) {
      throw new BulkheadError("KEEPER_FAILED", {
        what: `the keeper ${path} cannot be started`,
        ...(cause instanceof BulkheadError && cause.why !== undefined ? { why: cause.why } : {}),
        next:
          this.#stderr === ""
            ? "build it with cargo build --release, or set BULKHEAD_KEEPER to where it is"
            : "put that right and try again",
        cause,
      });
    }
  }

  #request(message: Record<string, unknown> & { op: string }): Promise<unknown> {
    if (this.#state.kind === "failed") return Promise.reject(this.#state.error);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#socket.write(`${JSON.stringify({ id, ...message })}\n`);
    });
  }

  #receive(text: string): void {
    try {
      const line = readLine(text);
      if ("event" in line) {
        if (line.event !== "limit") return this.#end(readEnded(line));
        const news = readLimit(line);
        return this.#limitListeners.get(news.instance)?.(news);
      }
      const waiting = this.#waiting.get(line.id);
      this.#waiting.delete(line.id);
      const answer = readAnswer(line);
      if (answer.ok) waiting?.resolve(answer.value);
      else waiting?.reject(answer.error);
    } catch (cause) {
      this.#distrust(cause instanceof Error ? cause.message : String(cause));
    }
  }

  /** What cannot be read ends the keeper: no later answer could be matched to its request. */
  #distrust(why: string): void {
    this.#fail(why);
    this.#child.kill("SIGTERM");
  }

  #fail(why: string, cause?: unknown): void {
    if (this.#state.kind === "failed") return;
    const last = this.#stderr.trim().split("\n").at(-1);
    const error = new BulkheadError("KEEPER_FAILED", {
      what: "the keeper has ended, and with it every sandbox of this engine",
      why: last ? `${why}: ${last}` : why,
      next: "start the engine again; what was left behind is removed then",
      cause,
    });
    this.#state = { kind: "failed", error };
    for (const waiting of this.#waiting.values()) waiting.reject(error);
    this.#waiting.clear();
    for (const id of [...this.#listeners.keys()]) this.#lose(id);
  }

  #end(ended: KeeperEnded): void {
    const listener = this.#listeners.get(ended.instance);
    this.#listeners.delete(ended.instance);
    listener?.(ended);
  }

  #lose(id: string): void {
    this.#end({ instance: id, code: null, signal: null, oomKilled: false, log: "" });
  }
}
