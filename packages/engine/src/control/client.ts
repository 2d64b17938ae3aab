import { BulkheadError, ERRORS, type ErrorCode } from "@bulkhead/contract";
import type { Socket } from "node:net";
import { PassThrough } from "node:stream";
import { type Frame, frames, GENERATION, jsonOf, Kind, MAX_DATA_BYTES, Peer, Unreadable } from "./frames.ts";
import type { ControlDirectory } from "./place.ts";

function engineGone(cause?: unknown): BulkheadError {
  return new BulkheadError("SANDBOX_GONE", {
    what: "the process that held the sandbox has ended",
    why: "its sandboxes ended with it",
    cause,
  });
}

/** An error as the engine sent it. */
function errorOf(value: unknown): BulkheadError {
  const { code, what, why, next, details } = (value ?? {}) as Partial<Record<string, unknown>>;
  const text = (given: unknown): string | undefined => (typeof given === "string" ? given : undefined);
  const known = typeof code === "string" && Object.hasOwn(ERRORS, code) ? (code as ErrorCode) : "INTERNAL";
  const [reason, step] = [text(why), text(next)];
  return new BulkheadError(known, {
    what: text(what) ?? "the engine failed without saying how",
    ...(reason !== undefined && { why: reason }),
    ...(step !== undefined && { next: step }),
    ...(typeof details === "object" && details !== null && { details: details as Record<string, unknown> }),
  });
}

export interface ConversationOptions {
  readonly signal?: AbortSignal | undefined;
  /** Told each part of an answer before the result; the next comes when this one is taken. */
  readonly onItem?: (item: unknown) => Promise<void>;
}

/** One thing asked of an engine, over a connection of its own. Disposing of it calls it off. */
export class Conversation implements Disposable {
  /** The engine's data, as fast as it is read. Ends also when the whole fails, which `result` says. */
  readonly out = new PassThrough({ highWaterMark: MAX_DATA_BYTES });
  readonly err = new PassThrough({ highWaterMark: MAX_DATA_BYTES });
  readonly #socket: Socket;
  readonly #peer: Peer;
  readonly #options: ConversationOptions;
  readonly #started = Promise.withResolvers<void>();
  readonly #result = Promise.withResolvers<unknown>();
  #acked: PromiseWithResolvers<void> | null = null;

  private constructor(socket: Socket, options: ConversationOptions) {
    this.#socket = socket;
    this.#peer = new Peer(socket);
    this.#options = options;
    for (const one of [this.#started, this.#result]) one.promise.catch(() => undefined);
    for (const lane of [this.out, this.err]) lane.on("error", () => undefined);
    options.signal?.addEventListener("abort", this.#abort, { once: true });
    void this.#listen();
  }

  /** @throws BulkheadError SANDBOX_GONE, ABORTED */
  static async begin(
    directory: ControlDirectory,
    request: Readonly<Record<string, unknown>>,
    options: ConversationOptions = {},
  ): Promise<Conversation> {
    if (options.signal?.aborted === true) throw calledOff(options.signal);
    const socket = await directory.connect();
    if (socket === null) throw engineGone();
    const conversation = new Conversation(socket, options);
    await conversation.#peer.json(Kind.request, { generation: GENERATION, ...request }).catch(() => undefined);
    return conversation;
  }

  /** Resolves when it is under way. @throws BulkheadError as the engine says */
  get started(): Promise<void> {
    return this.#started.promise;
  }

  /** @throws BulkheadError as the engine says, SANDBOX_GONE, ABORTED */
  get result(): Promise<unknown> {
    return this.#result.promise;
  }

  /** Resolves when the engine has taken it. @throws BulkheadError */
  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; at += MAX_DATA_BYTES) {
      this.#acked = Promise.withResolvers();
      const sent = this.#peer.send(Kind.data, bytes.subarray(at, at + MAX_DATA_BYTES)).catch(() => undefined);
      // An answer before the end is why no more is taken.
      await Promise.race([this.#acked.promise, this.#result.promise]);
      await sent;
    }
  }

  async end(): Promise<void> {
    await this.#peer.send(Kind.end).catch(() => undefined);
  }

  async control(value: Readonly<Record<string, unknown>>): Promise<void> {
    await this.#peer.json(Kind.control, value).catch(() => undefined);
  }

  readonly #abort = (): void => {
    const { signal } = this.#options;
    if (signal !== undefined) this.#fail(calledOff(signal));
  };

  async #listen(): Promise<void> {
    try {
      for await (const frame of frames(this.#socket)) if (await this.#take(frame)) return;
      this.#fail(engineGone());
    } catch (cause) {
      const unreadable = new BulkheadError("INTERNAL", { what: "the engine's answer cannot be read", cause });
      this.#fail(cause instanceof Unreadable ? unreadable : engineGone(cause));
    }
  }

  /** @returns whether it was the last. */
  async #take(frame: Frame): Promise<boolean> {
    if (frame.kind === Kind.ack) this.#acked?.resolve();
    else if (frame.kind === Kind.started) this.#started.resolve();
    else if (frame.kind === Kind.data) await fill(this.out, frame.body);
    else if (frame.kind === Kind.errorData) await fill(this.err, frame.body);
    else if (frame.kind === Kind.item) await this.#options.onItem?.(jsonOf(frame));
    else if (frame.kind === Kind.failure) this.#fail(errorOf(jsonOf(frame)));
    else if (frame.kind === Kind.result) this.#finish(jsonOf(frame));
    else throw new Unreadable("a frame that only clients send");
    return frame.kind === Kind.result || frame.kind === Kind.failure;
  }

  #finish(result: unknown): void {
    this.#started.resolve();
    this.#result.resolve(result);
    this.#close();
  }

  #fail(error: BulkheadError): void {
    this.#started.reject(error);
    this.#result.reject(error);
    this.#close();
  }

  /** What came until now can still be read. */
  #close(): void {
    this.#options.signal?.removeEventListener("abort", this.#abort);
    this.#socket.destroy();
    this.out.end();
    this.err.end();
  }

  [Symbol.dispose](): void {
    this.#fail(calledOff());
    this.out.destroy();
    this.err.destroy();
  }
}

function calledOff(signal?: AbortSignal): BulkheadError {
  return new BulkheadError("ABORTED", { what: "it was called off", cause: signal?.reason });
}

/** Resolves when it has room again; what nobody reads any more is thrown away. */
export function fill(lane: PassThrough, piece: unknown): Promise<void> {
  if (lane.destroyed || lane.writableEnded) return Promise.resolve();
  return new Promise((resolve) => {
    const settle = (): void => {
      lane.off("close", settle);
      resolve();
    };
    lane.once("close", settle).write(piece, settle);
  });
}
