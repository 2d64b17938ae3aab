import { BulkheadError } from "@bulkhead/contract";
import { Readable, type Writable } from "node:stream";
import type { OpenMessage } from "../channel/grammar.ts";
import type { InboundLane } from "../channel/inbound.ts";
import type { ChannelStream, StreamEnd, StreamMessage } from "../channel/stream.ts";
import type { RecordedCall } from "../channel/wire.gen.ts";
import type { Inside } from "./calls.ts";
import { aborted, outputLimit, timedOut } from "./errors.ts";
import {
  type Command,
  describeCommand,
  execBody,
  type ExecOptions,
  terminalSize,
  type TerminalSize,
} from "./exec-request.ts";
import { Collector, commandFailed, ExecResult, type ExitStatus, tail, toExitStatus } from "./exec-result.ts";
import { MAX_PID, MAX_TIMEOUT_MS, whole } from "./names.ts";
import { outputIsOver } from "./limit-events.ts";
import { OutputBudget } from "./output-budget.ts";
import { mergeLanes, type OutputEvent } from "./output-events.ts";
import { type SignalInput, signalNumber } from "./signals.ts";

const DEFAULT_MAX_OUTPUT_BYTES = 64 * 1024 * 1024;
/** Long enough for a pipeline's last member to write, short enough not to be felt as a hang. */
const DEFAULT_DRAIN_GRACE_MS = 500;

/** One of each that exists. */
const MAX_EARLY_SIGNALS = 64;

/** What an execution is made from: a new process, or one that runs already. */
export type Origin =
  | { readonly kind: "exec"; readonly command: Command }
  | { readonly kind: "connect"; readonly pid: number };

type State =
  | { readonly at: "starting" }
  | { readonly at: "running"; readonly pid: number }
  | { readonly at: "exited"; readonly pid: number; readonly status: ExitStatus; readonly durationMs: number }
  | { readonly at: "failed"; readonly error: BulkheadError };

/**
 * A process inside, awaitable and streamable:
 *
 * - `await` it: collects what is not read as a stream and resolves with ExecResult. Exit codes are results.
 * - `.stdout` / `.stderr`: a lane read here is not collected. Nobody reading stalls the process, not the host.
 * - `for await (const { lane, data } of execution)`: both lanes as they come.
 *
 * When the process has exited but another one holds its output open, the result waits until nothing has come for
 * `drainGraceMs`; that other process goes on.
 */
export class Execution implements PromiseLike<ExecResult>, AsyncIterable<OutputEvent> {
  readonly #inside: Inside;
  readonly #subject: string;
  readonly #options: ExecOptions;
  readonly #kills: boolean;
  readonly #stream: ChannelStream | null = null;
  readonly #begun = performance.now();
  readonly #pid = Promise.withResolvers<number>();
  readonly #exit = Promise.withResolvers<ExitStatus>();
  readonly #recorded = Promise.withResolvers<readonly RecordedCall[]>();
  readonly #over = Promise.withResolvers<void>();
  readonly #collectors: { out: Collector | null; err: Collector | null } = { out: null, err: null };
  #stdout: Readable | null = null;
  #stderr: Readable | null = null;
  #stdin: Writable | null = null;
  #result: Promise<ExecResult> | null = null;
  #state: State = { at: "starting" };
  #started = false;
  /** Signals asked for before there was a process to get them. */
  readonly #early: { readonly signal: number; readonly group: boolean }[] = [];
  #earlySize: TerminalSize | null = null;
  /** Why it failed is known before that it did. */
  #looked: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | null = null;
  #drain: NodeJS.Timeout | null = null;

  constructor(inside: Inside, origin: Origin, options: ExecOptions) {
    this.#inside = inside;
    this.#options = options;
    this.#kills = origin.kind === "exec";
    this.#subject = origin.kind === "exec" ? describeCommand(origin.command) : `process ${origin.pid}`;
    for (const promise of [this.#pid.promise, this.#exit.promise, this.#recorded.promise, this.#over.promise])
      promise.catch(ignore);
    try {
      whole(options.timeoutMs ?? 1, "timeoutMs", 1, MAX_TIMEOUT_MS);
      whole(options.drainGraceMs ?? 0, "drainGraceMs", 0, MAX_TIMEOUT_MS);
      if (options.signal?.aborted === true) throw aborted(this.#subject, options.signal);
      this.#stream = inside.channel.open(this.#request(origin), {
        subject: this.#subject,
        message: (message) => this.#message(message),
        end: (end) => this.#end(end),
      });
      this.#limitOutput(this.#stream);
      this.#feedStdin(this.#stream);
    } catch (error) {
      this.#fail(
        error instanceof BulkheadError
          ? error
          : new BulkheadError("INTERNAL", { what: `${this.#subject} could not be started`, cause: error }),
      );
      return;
    }
    options.signal?.addEventListener("abort", this.#abort, { once: true });
    const { timeoutMs } = options;
    if (timeoutMs !== undefined) this.#timer = setTimeout(() => this.#timeout(timeoutMs), timeoutMs);
  }

  #request(origin: Origin): OpenMessage {
    if (origin.kind === "connect") return { name: "Connect", body: { pid: whole(origin.pid, "pid", 1, MAX_PID) } };
    return { name: "Exec", body: execBody(origin.command, this.#options) };
  }

  #feedStdin(stream: ChannelStream): void {
    const { stdin } = this.#options;
    if (stdin === undefined || typeof stdin === "boolean" || !this.#kills) return;
    if (stdin instanceof Readable) {
      stdin.on("error", (cause) =>
        this.#stop(
          new BulkheadError("ABORTED", {
            what: `${this.#subject} was ended: its standard input could not be read`,
            cause,
          }),
        ),
      );
      stdin.pipe(this.stdin);
    } else {
      stream.in.write(typeof stdin === "string" ? Buffer.from(stdin) : stdin, ignore);
      stream.in.end();
    }
  }

  #limitOutput(stream: ChannelStream): void {
    const { output } = this.#inside;
    if (output === undefined || !this.#kills) return;
    const budget = new OutputBudget(output.maxBytes, () => this.#outputOver(output));
    for (const lane of [stream.out, stream.err]) lane.limitBy((piece) => budget.take(piece));
  }

  /** Readers get what came before the limit, then the end; who waits for the process gets the error. */
  #outputOver(output: NonNullable<Inside["output"]>): void {
    if (this.#state.at === "failed") return;
    const { out, err } = this.#collectors;
    const kept = { stdout: tail(out?.take() ?? EMPTY), stderr: tail(err?.take() ?? EMPTY) };
    const pid = this.#state.at === "running" || this.#state.at === "exited" ? this.#state.pid : null;
    output.reached(pid);
    this.kill("SIGKILL");
    this.#stream?.cancel();
    this.#fail(outputIsOver(this.#subject, output.maxBytes, { pid, ...kept }));
  }

  /** The process id inside; rejects when the process could not be started. */
  get pid(): Promise<number> {
    return this.#pid.promise;
  }

  /** Resolves at the process's exit. Does not read its output: a process that waits for a reader does not exit. */
  get exit(): Promise<ExitStatus> {
    return this.#exit.promise;
  }

  /** With `record`: each call once, the first argument of socket and personality besides; resolves before `exit`. Untrusted. */
  get recorded(): Promise<readonly RecordedCall[]> {
    return this.#recorded.promise;
  }

  get stdout(): Readable {
    return (this.#stdout ??= this.#readable("out"));
  }

  get stderr(): Readable {
    return (this.#stderr ??= this.#readable("err"));
  }

  /** With `stdin: true`, a pty, or a connection. What is written after the process has gone is dropped. */
  get stdin(): Writable {
    const stream = this.#stream;
    if (stream === null) throw this.#failure();
    return (this.#stdin ??= stream.in.writable());
  }

  #readable(lane: "out" | "err"): Readable {
    const stream = this.#stream;
    if (stream !== null) return stream[lane].readable();
    const failed = new Readable({ read: ignore });
    failed.on("error", ignore);
    failed.destroy(this.#failure());
    return failed;
  }

  /** Sends a signal, to the whole process group unless told otherwise. Nothing happens when the process has gone. */
  kill(signal: SignalInput = "SIGKILL", options: { readonly group?: boolean } = {}): void {
    const body = { signal: signalNumber(signal), group: options.group ?? true };
    if (this.#started) this.#stream?.send({ name: "Signal", body });
    else if (this.#early.length < MAX_EARLY_SIGNALS) this.#early.push(body);
  }

  /** Of its pty. */
  resize(size: TerminalSize): void {
    const body = terminalSize(size);
    if (this.#started) this.#stream?.send({ name: "Resize", body });
    else this.#earlySize = body;
  }

  /** Stops listening; the process goes on and can be connected to later. Lanes end, the result rejects with ABORTED. */
  detach(): void {
    this.#stream?.cancel();
    this.#fail(new BulkheadError("ABORTED", { what: `${this.#subject} was detached from` }));
  }

  then<A = ExecResult, B = never>(
    fulfilled?: ((result: ExecResult) => A | PromiseLike<A>) | null,
    rejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.#result ??= this.#collect();
    return this.#result.then(fulfilled, rejected);
  }

  catch<B = never>(rejected: (reason: unknown) => B | PromiseLike<B>): Promise<ExecResult | B> {
    return this.then(undefined, rejected);
  }

  finally(settled: () => void): Promise<ExecResult> {
    return this.then(undefined).finally(settled);
  }

  [Symbol.asyncIterator](): AsyncIterator<OutputEvent> {
    return mergeLanes(this.stdout, this.stderr);
  }

  async #collect(): Promise<ExecResult> {
    const stream = this.#stream;
    if (stream === null) throw this.#failure();
    this.#collectLane("out", stream.out);
    this.#collectLane("err", stream.err);
    await this.#over.promise;
    const state = this.#state;
    if (state.at !== "exited") throw this.#failure();
    const { out, err } = this.#collectors;
    const result = new ExecResult(
      state.pid,
      state.status,
      state.durationMs,
      out?.take() ?? EMPTY,
      err?.take() ?? EMPTY,
    );
    if (this.#options.check === true && !result.ok) throw commandFailed(this.#subject, result);
    return result;
  }

  #collectLane(name: "out" | "err", lane: InboundLane): void {
    if (lane.claimed) return;
    const maxBytes = this.#options.maxOutputBytes ?? DEFAULT_MAX_OUTPUT_BYTES;
    // From within the channel's data event: the stop must not change the lane that is being read.
    const full = (): void => queueMicrotask(() => this.#stop(outputLimit(this.#subject, maxBytes, "maxOutputBytes")));
    const collector = new Collector(maxBytes, full);
    this.#collectors[name] = collector;
    lane.consume((piece) => collector.add(piece), ignore);
  }

  #message(message: StreamMessage): void {
    if (message.name === "Started") {
      this.#started = true;
      if (this.#earlySize !== null) this.#stream?.send({ name: "Resize", body: this.#earlySize });
      for (const body of this.#early) this.#stream?.send({ name: "Signal", body });
      if (this.#state.at === "failed") {
        this.#stream?.cancel();
        return;
      }
      this.#state = { at: "running", pid: message.body.pid };
      this.#pid.resolve(message.body.pid);
    }
    if (message.name === "Recorded") this.#recorded.resolve(message.body.calls);
    if (message.name === "Exited" && this.#state.at === "running") {
      const status = toExitStatus(message.body);
      this.#state = { at: "exited", pid: this.#state.pid, status, durationMs: performance.now() - this.#begun };
      // One that is not recorded has none to tell.
      this.#recorded.resolve([]);
      if (status.exitCode !== 0) this.#looked = this.#inside.look?.() ?? this.#looked;
      void this.#looked.then(() => this.#exit.resolve(status));
      this.#watchDrain(-1);
    }
  }

  /** @param seen bytes that had come when the last grace began. */
  #watchDrain(seen: number): void {
    const stream = this.#stream;
    if (stream === null || (stream.out.ended && stream.err.ended)) return;
    const graceMs = this.#options.drainGraceMs ?? DEFAULT_DRAIN_GRACE_MS;
    const received = stream.out.received + stream.err.received;
    // A slow reader of ours is not silence: what it has not taken yet may hold back what comes after.
    const unread = stream.out.buffered + stream.err.buffered;
    if (received === seen && unread === 0) {
      stream.cancel();
      this.#end({ how: "done" });
      return;
    }
    // Output that nobody ever reads must not keep the host process alive.
    this.#drain = setTimeout(() => this.#watchDrain(received), graceMs).unref();
  }

  #end(end: StreamEnd): void {
    if (end.how === "done") {
      this.#settle();
      void this.#looked.then(() => this.#over.resolve());
    } else {
      this.#settle();
      void this.#inside.explain(end.error).then((error) => this.#fail(error));
    }
  }

  #settle(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#drain !== null) clearTimeout(this.#drain);
    this.#options.signal?.removeEventListener("abort", this.#abort);
  }

  #fail(error: BulkheadError): void {
    this.#settle();
    if (this.#state.at === "failed") return;
    this.#state = { at: "failed", error };
    this.#pid.reject(error);
    this.#exit.reject(error);
    this.#recorded.reject(error);
    this.#over.reject(error);
  }

  #failure(): BulkheadError {
    if (this.#state.at === "failed") return this.#state.error;
    return new BulkheadError("INTERNAL", { what: `${this.#subject} ended without an exit status` });
  }

  /** Ends the process group, when it is ours to end, and everything that waits for it. */
  #stop(error: BulkheadError): void {
    if (this.#kills) this.#early.length = 0;
    if (this.#kills) this.kill("SIGKILL");
    // Cancelled before it has started, the process would start all the same and live on unseen.
    if (this.#started || !this.#kills) this.#stream?.cancel(error);
    else this.#stream?.abandon(error);
    this.#fail(error);
  }

  readonly #abort = (): void => this.#stop(aborted(this.#subject, this.#options.signal));

  #timeout(timeoutMs: number): void {
    const { out, err } = this.#collectors;
    const partial = { stdout: tail(out?.take() ?? EMPTY), stderr: tail(err?.take() ?? EMPTY) };
    const pid = this.#state.at === "running" ? this.#state.pid : null;
    this.#stop(timedOut(this.#subject, timeoutMs, { pid, ...partial }));
  }
}

const EMPTY = Buffer.alloc(0);

function ignore(): void {}
