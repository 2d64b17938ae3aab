import { BulkheadError } from "@bulkhead/contract";
import type { Readable, Writable } from "node:stream";
import { type Answer, AnswerHunt, attachBytes, type Before, newSession } from "./attach.ts";
import { Malformed, WireReader } from "./codec.ts";
import { aborted, attachTimeout, brokenProtocol, gone, pingTimeout, streamLimit, tooLarge } from "./errors.ts";
import { FrameDecoder, FrameEncoder } from "./frame.ts";
import { grammarOf, type OpenMessage, windowOf } from "./grammar.ts";
import { Sender } from "./sender.ts";
import { ChannelStream, type StreamHandlers, type StreamPort } from "./stream.ts";
import {
  type Configure,
  type Hello,
  LimitKind,
  type LimitHit,
  MAX_PAYLOAD_BYTES,
  MAX_STREAMS,
  readMessage,
  TO_HOST,
  TYPE,
} from "./wire.gen.ts";

/** The wire has stream ids below 2^31. */
const LAST_STREAM_ID = 2 ** 31 - 1;
/** Many more pings at once than any health check has; the answers owed stay bounded. */
const MAX_PINGS = 64;
/** Requests an agent that does not read can make wait here, however often it ends their streams unread: 64 of the largest. */
const MAX_WAITING_BYTES = 64 * MAX_PAYLOAD_BYTES;
const DEFAULT_ATTACH_TIMEOUT_MS = 10_000;
const DEFAULT_PING_TIMEOUT_MS = 5_000;
const LIMIT_KINDS: ReadonlySet<number> = new Set(Object.values(LimitKind));
/** After a write has failed, what the agent still had to say is worth this much waiting. */
const LAST_WORDS_MS = 1_000;

export interface AttachOptions {
  /** From the agent. A net.Socket on a FIFO's read end, or a child's stdout. */
  readonly readable: Readable;
  /** To the agent. */
  readonly writable: Writable;
  /** False: resynchronise first. True: this host started the agent and nobody has written to it. */
  readonly fresh: boolean;
  /** Of one that is not fresh: all that was written to it has been answered, which takes less than what may have been cut off. */
  readonly answered?: boolean;
  /** Sent right behind the attach. Needed once in an agent's life, before its first stream. */
  readonly configure?: Configure;
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
  /** Called once, when the agent broke the protocol: whoever owns the sandbox kills it. */
  readonly onBroken?: (error: BulkheadError) => void;
  /** The agent says that a limit was reached. Untrusted, and as often as it likes. */
  readonly onLimit?: (hit: LimitHit) => void;
}

export interface PingOptions {
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
}

function before({ fresh, answered = false }: AttachOptions): Before {
  if (fresh) return "nothing";
  return answered ? "frames" : "anything";
}

type State =
  | { readonly at: "attaching"; readonly done: (error: BulkheadError | null) => void }
  | { readonly at: "attached"; readonly hello: Hello }
  | { readonly at: "closed"; readonly error: BulkheadError };

/** The host's end of one agent's wire. Everything that comes in is hostile; nothing that comes in makes it throw. */
export class Channel {
  readonly #readable: Readable;
  readonly #writable: Writable;
  readonly #sender: Sender;
  readonly #decoder: FrameDecoder;
  readonly #onBroken: ((error: BulkheadError) => void) | undefined;
  readonly #onLimit: ((hit: LimitHit) => void) | undefined;
  readonly #streams = new Map<number, ChannelStream>();
  readonly #pings = new Map<bigint, (error: BulkheadError | null) => void>();
  readonly #port: StreamPort;
  readonly #closed = Promise.withResolvers<BulkheadError>();
  #state: State;
  #refusal: (() => BulkheadError) | null = null;
  #answered = false;
  #activeAt = performance.now();
  #lastStream = 0;
  #lastToken = 0n;

  /** Attaches to the agent at the other end. Both streams belong to the channel from now on, also when this fails. */
  static async attach(options: AttachOptions): Promise<Channel> {
    const timeoutMs = options.timeoutMs ?? DEFAULT_ATTACH_TIMEOUT_MS;
    const attached = Promise.withResolvers<void>();
    const channel = new Channel(options, (error) => (error === null ? attached.resolve() : attached.reject(error)));
    const timer = setTimeout(() => channel.close(attachTimeout(timeoutMs)), timeoutMs);
    const abort = (): void => channel.close(aborted("attaching to the agent", options.signal));
    options.signal?.addEventListener("abort", abort, { once: true });
    if (options.signal?.aborted === true) abort();
    try {
      await attached.promise;
      return channel;
    } finally {
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", abort);
    }
  }

  private constructor(options: AttachOptions, done: (error: BulkheadError | null) => void) {
    const session = newSession();
    this.#readable = options.readable;
    this.#writable = options.writable;
    this.#onBroken = options.onBroken;
    this.#onLimit = options.onLimit;
    this.#state = { at: "attaching", done };
    this.#sender = new Sender(options.writable, new FrameEncoder(session.tag));
    this.#decoder = new FrameDecoder(session.tag, new AnswerHunt(session.nonce));
    this.#port = {
      control: (stream, message) => {
        this.#activeAt = performance.now();
        this.#sender.control(stream, message);
      },
      wantCredit: (lane) => this.#sender.wantCredit(lane),
      wantWrite: (lane) => {
        this.#activeAt = performance.now();
        this.#sender.wantWrite(lane);
      },
    };
    this.#listen();
    this.#sender.hold();
    this.#sender.raw(attachBytes(session, before(options)));
    if (options.configure !== undefined) this.#sender.control(0, { name: "Configure", body: options.configure });
    this.#sender.release();
  }

  #listen(): void {
    const sink = {
      answer: (answer: Answer) => this.#answer(answer),
      frame: (stream: number, type: number, lane: number, payload: Buffer) => this.#frame(stream, type, lane, payload),
    };
    this.#readable.on("data", (chunk: Buffer) => {
      if (this.#state.at === "closed") return;
      this.#sender.hold();
      try {
        this.#decoder.push(chunk, sink);
      } catch (error) {
        this.#broken(error);
      } finally {
        this.#sender.release();
      }
    });
    this.#readable.on("end", () => this.close(gone()));
    this.#readable.on("close", () => this.close(gone()));
    this.#readable.on("error", (error) => this.close(gone(error)));
    this.#writable.on("error", (error) => this.#writeFailed(error));
  }

  /** The agent has stopped reading; what it wrote before, its end of file too, is still on the way. */
  #writeFailed(error: Error): void {
    if (this.#state.at === "closed") return;
    this.#sender.stop();
    setTimeout(() => this.close(gone(error)), LAST_WORDS_MS).unref();
  }

  /** What the agent said of itself at attach. Untrusted. */
  get hello(): Hello {
    if (this.#state.at !== "attached") throw this.#error();
    return this.#state.hello;
  }

  /** Resolves, never rejects, with the reason once the channel is no more. */
  get closed(): Promise<BulkheadError> {
    return this.#closed.promise;
  }

  /** Streams the agent has not ended yet, cancelled ones included. */
  get streams(): number {
    return this.#streams.size;
  }

  /** When something last came or went on a stream, by performance.now(); pings do not count. */
  get activeAt(): number {
    return this.#activeAt;
  }

  /** Bytes that have arrived and nobody has read yet. */
  get buffered(): number {
    let bytes = 0;
    for (const stream of this.#streams.values()) bytes += stream.out.buffered + stream.err.buffered;
    return bytes;
  }

  /** While it is set, whatever would be asked of the agent anew fails with it; what is under way waits. */
  refuse(refusal: (() => BulkheadError) | null): void {
    this.#refusal = refusal;
  }

  /** Why the channel is no more; null as long as it is. */
  get failure(): BulkheadError | null {
    return this.#state.at === "closed" ? this.#state.error : null;
  }

  /** @throws BulkheadError why nothing can be asked of the agent now. */
  requireUsable(): void {
    if (this.#state.at === "closed") throw this.#state.error;
    if (this.#refusal !== null) throw this.#refusal();
  }

  /** Opens a stream. `handlers` are called from the channel's data event, never before this returns. */
  open(message: OpenMessage, handlers: StreamHandlers): ChannelStream {
    this.requireUsable();
    if (this.#streams.size >= MAX_STREAMS) throw streamLimit();
    if (this.#lastStream >= LAST_STREAM_ID || this.#sender.waitingBytes > MAX_WAITING_BYTES) throw streamLimit();
    const id = this.#lastStream + 1;
    this.#activeAt = performance.now();
    try {
      this.#sender.control(id, message);
    } catch (error) {
      if (error instanceof Malformed) throw tooLarge(message.name, error);
      throw error;
    }
    this.#lastStream = id;
    const stream = new ChannelStream(
      id,
      { grammar: grammarOf(message), window: windowOf(message) },
      handlers,
      this.#port,
    );
    this.#streams.set(id, stream);
    return stream;
  }

  /** Sends the agent its settings; for a re-attach that changes them. */
  configure(configure: Configure): void {
    this.#sender.control(0, { name: "Configure", body: configure });
  }

  /** Asks the agent to end the sandbox from inside. */
  shutdown(graceMs: number): void {
    this.#sender.control(0, { name: "Shutdown", body: { graceMs } });
  }

  /** @returns the round trip in milliseconds. */
  async ping(options: PingOptions = {}): Promise<number> {
    const timeoutMs = options.timeoutMs ?? DEFAULT_PING_TIMEOUT_MS;
    if (this.#state.at !== "attached") throw this.#error();
    this.requireUsable();
    if (options.signal?.aborted === true) throw aborted("a ping", options.signal);
    if (this.#pings.size >= MAX_PINGS) throw pingTimeout(timeoutMs, `${MAX_PINGS} earlier pings are unanswered`);
    const token = (this.#lastToken += 1n);
    const answer = Promise.withResolvers<void>();
    // The token stays known after a timeout: a late answer is slow, not hostile.
    this.#pings.set(token, (error) => (error === null ? answer.resolve() : answer.reject(error)));
    const timer = setTimeout(() => answer.reject(pingTimeout(timeoutMs)), timeoutMs);
    const abort = (): void => answer.reject(aborted("a ping", options.signal));
    options.signal?.addEventListener("abort", abort, { once: true });
    const start = performance.now();
    try {
      this.#sender.control(0, { name: "Ping", body: { token } });
      await answer.promise;
      return performance.now() - start;
    } finally {
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", abort);
    }
  }

  /** Ends the channel; every stream fails with `error`. Idempotent. */
  close(
    error: BulkheadError = new BulkheadError("CHANNEL_CLOSED", { what: "the channel to the sandbox was closed" }),
  ): void {
    const state = this.#state;
    if (state.at === "closed") return;
    this.#state = { at: "closed", error };
    this.#sender.stop();
    this.#readable.destroy();
    this.#writable.destroy();
    if (state.at === "attaching") state.done(error);
    for (const stream of this.#streams.values()) stream.finish({ how: "broken", error });
    this.#streams.clear();
    for (const answer of this.#pings.values()) answer(error);
    this.#pings.clear();
    this.#closed.resolve(error);
  }

  #error(): BulkheadError {
    if (this.#state.at === "closed") return this.#state.error;
    return new BulkheadError("INTERNAL", { what: "the channel is not attached yet" });
  }

  /** What a stream carried was no record of its kind: the same as any other violation. */
  violation(cause: Malformed): void {
    this.#broken(cause);
  }

  #broken(cause: unknown): void {
    if (this.#state.at === "closed") return;
    const error = brokenProtocol(cause);
    this.close(error);
    this.#onBroken?.(error);
  }

  #answer(answer: Answer): void {
    if (answer.generation !== 0) return;
    throw new Malformed("the agent speaks no generation of the wire that this host speaks");
  }

  #frame(streamId: number, type: number, lane: number, payload: Buffer): void {
    // A handler may have closed the channel while the rest of this chunk is still being read.
    if (this.#state.at === "closed") return;
    if (!TO_HOST.has(type)) throw new Malformed("a message of a type that does not go to the host");
    if (streamId === 0) {
      this.#session(type, lane, payload);
      return;
    }
    if (!this.#answered) throw new Malformed("a stream before Hello");
    this.#activeAt = performance.now();
    const stream = this.#streams.get(streamId);
    if (stream === undefined) throw new Malformed("a frame on a stream that is not open");
    if (isSession(type)) throw new Malformed("a session message on a stream");
    if (stream.receive(type, lane, payload)) this.#streams.delete(streamId);
  }

  #session(type: number, lane: number, payload: Buffer): void {
    if (!isSession(type) || lane !== 0) throw new Malformed("a stream message on the session");
    const reader = new WireReader(payload);
    const message = readMessage(type, reader);
    reader.finish();
    if (message?.name === "Hello") this.#hello(message.body);
    if (message?.name === "Pong") this.#pong(message.body.token);
    if (message?.name === "LimitHit") this.#limitHit(message.body);
  }

  #hello(hello: Hello): void {
    if (this.#answered) throw new Malformed("a second Hello");
    this.#answered = true;
    if (this.#state.at !== "attaching") return;
    const { done } = this.#state;
    this.#state = { at: "attached", hello };
    done(null);
  }

  #limitHit(hit: LimitHit): void {
    if (!this.#answered) throw new Malformed("a limit before Hello");
    if (!LIMIT_KINDS.has(hit.limit)) throw new Malformed("a limit that there is not");
    this.#onLimit?.(hit);
  }

  #pong(token: bigint): void {
    const answer = this.#pings.get(token);
    if (answer === undefined) throw new Malformed("an answer to a ping that was not sent");
    this.#pings.delete(token);
    answer(null);
  }
}

function isSession(type: number): boolean {
  return type === TYPE.Hello || type === TYPE.Pong || type === TYPE.LimitHit;
}
