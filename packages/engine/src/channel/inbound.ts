import { Readable } from "node:stream";
import { ByteQueue, owned } from "./byte-queue.ts";
import { Malformed } from "./codec.ts";

/** Credit goes back in pieces of a quarter window: few frames, and the sender never runs dry while its reader keeps up. */
const RETURN_FROM_SHARE = 1 / 4;

type Reader =
  | { readonly kind: "none" }
  /** Takes every piece at once, and copies what it keeps. */
  | { readonly kind: "push"; readonly data: (piece: Buffer) => void; readonly end: () => void }
  | { readonly kind: "pull"; readonly readable: Readable; wanting: boolean }
  | { readonly kind: "discard" };

type State = { readonly at: "open" } | { readonly at: "ended" } | { readonly at: "failed"; readonly error: Error };

/**
 * One lane from the agent. What has arrived and was not read is at most the credit given, and credit is given back only as
 * the reader takes bytes: a reader that stops stalls this lane and no other.
 */
export class InboundLane {
  readonly number: number;
  readonly stream: number;
  readonly #wantCredit: (lane: InboundLane) => void;
  readonly #queue = new ByteQueue();
  readonly #returnFrom: number;
  #window: number;
  #taken = 0;
  #reader: Reader = { kind: "none" };
  #state: State = { at: "open" };
  #closed = false;
  #received = 0;
  #limit: ((piece: Buffer) => Buffer) | null = null;

  /** @param window bytes that may come before credit is given */
  constructor(stream: number, number: number, window: number, wantCredit: (lane: InboundLane) => void) {
    this.stream = stream;
    this.number = number;
    this.#window = window;
    this.#returnFrom = window * RETURN_FROM_SHARE;
    this.#wantCredit = wantCredit;
  }

  get ended(): boolean {
    return this.#state.at !== "open";
  }

  /** Bytes that have arrived so far. */
  get received(): number {
    return this.#received;
  }

  /** Bytes that have arrived and were not read. */
  get buffered(): number {
    return this.#queue.length;
  }

  /** @throws Malformed for bytes nobody gave credit for. */
  accept(piece: Buffer): void {
    if (piece.length > this.#window) throw new Malformed("data without credit");
    if (this.#state.at === "ended" && !this.#closed) throw new Malformed("data after the end of its lane");
    this.#window -= piece.length;
    if (this.#closed || piece.length === 0) return;
    this.#received += piece.length;
    this.#deliver(this.#limit === null ? piece : this.#limit(piece));
  }

  /** From now on only what `limit` returns of a piece is delivered; the rest counts as arrived and is dropped. */
  limitBy(limit: (piece: Buffer) => Buffer): void {
    this.#limit = limit;
  }

  #deliver(piece: Buffer): void {
    if (piece.length === 0) return;
    const reader = this.#reader;
    if (reader.kind === "push") {
      this.#take(piece.length);
      reader.data(piece);
    } else if (reader.kind === "discard") {
      this.#take(piece.length);
    } else if (reader.kind === "pull" && reader.wanting && this.#queue.length === 0) {
      this.#pushTo(reader, owned(piece));
    } else {
      this.#queue.append(piece);
      if (reader.kind === "pull" && reader.wanting) this.#feed(reader);
    }
  }

  /** The agent's End. */
  end(): void {
    if (this.#closed) return;
    if (this.#state.at === "ended") throw new Malformed("a second end of one lane");
    this.#finish({ at: "ended" });
  }

  /** Nothing more is delivered: what was queued can still be read, then the lane ends or fails. No credit goes out. */
  close(error?: Error): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#state.at === "open") this.#finish(error === undefined ? { at: "ended" } : { at: "failed", error });
  }

  #finish(state: State): void {
    this.#state = state;
    const reader = this.#reader;
    if (reader.kind === "push") reader.end();
    if (reader.kind !== "pull") return;
    if (state.at === "failed") reader.readable.destroy(state.error);
    else if (reader.wanting) this.#feed(reader);
  }

  /** @returns what the lane may be given now, which counts as given; 0 when there is nothing to return. */
  returnCredit(): number {
    if (this.#closed || this.#state.at !== "open") return 0;
    const bytes = this.#taken;
    this.#taken = 0;
    this.#window += bytes;
    return bytes;
  }

  #take(bytes: number): void {
    const before = this.#taken;
    this.#taken = before + bytes;
    if (before < this.#returnFrom && this.#taken >= this.#returnFrom && !this.ended) this.#wantCredit(this);
  }

  /** From now on every piece goes to `data` as it arrives; `end` is called once, also when the lane fails. */
  consume(data: (piece: Buffer) => void, end: () => void): void {
    this.#claim({ kind: "push", data, end });
    for (let piece = this.#queue.shift(); piece !== null; piece = this.#queue.shift()) {
      this.#take(piece.length);
      data(piece);
    }
    if (this.ended) end();
  }

  /** From now on what arrives is counted as read and dropped. */
  discard(): void {
    this.#reader = { kind: "discard" };
    this.#take(this.#queue.length);
    this.#queue.clear();
  }

  get claimed(): boolean {
    return this.#reader.kind !== "none";
  }

  #claim(reader: Reader): void {
    if (this.claimed) throw new TypeError("a lane can be read only once");
    this.#reader = reader;
  }

  /**
   * The lane as a Readable. Destroying it discards what still arrives, then calls `onDestroy`. It never raises an unhandled
   * "error" event: whoever reads it sees the error, whoever does not is not killed by it.
   */
  readable(onDestroy?: () => void): Readable {
    const readable = new Readable({
      // One piece at a time: all other bytes stay in this lane's queue, where small pieces are gathered.
      highWaterMark: 1,
      read: () => {
        reader.wanting = true;
        this.#feed(reader);
      },
      destroy: (error, done) => {
        this.discard();
        onDestroy?.();
        done(error);
      },
    });
    const reader: Reader & { kind: "pull" } = { kind: "pull", readable, wanting: false };
    readable.on("error", ignore);
    this.#claim(reader);
    if (this.#state.at === "failed") readable.destroy(this.#state.error);
    return readable;
  }

  #feed(reader: Reader & { kind: "pull" }): void {
    const piece = this.#queue.shift();
    if (piece !== null) {
      this.#pushTo(reader, piece);
    } else if (this.#state.at === "ended") {
      reader.wanting = false;
      reader.readable.push(null);
    }
  }

  #pushTo(reader: Reader & { kind: "pull" }, piece: Buffer): void {
    reader.wanting = false;
    this.#take(piece.length);
    try {
      reader.readable.push(piece);
    } catch (thrown) {
      // A listener's own exception: it must not pass for the agent's fault, nor leave a chunk half-decoded.
      process.nextTick(() => {
        throw thrown;
      });
    }
  }
}

function ignore(): void {}
