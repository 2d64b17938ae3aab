import { Writable } from "node:stream";
import { Malformed } from "./codec.ts";
import { MAX_PAYLOAD_BYTES } from "./wire.gen.ts";

interface Pending {
  readonly bytes: Uint8Array;
  at: number;
  readonly done: () => void;
}

type State =
  | { readonly at: "open" }
  /** End goes out after the bytes that wait. */
  | { readonly at: "ending"; readonly done: () => void }
  | { readonly at: "ended" };

export type Outgoing =
  | { readonly kind: "data"; readonly payload: Uint8Array; readonly done: (() => void) | null }
  | { readonly kind: "end"; readonly done: () => void };

/** One lane to the agent: bytes wait here until the agent has given credit for them. */
export class OutboundLane {
  readonly stream: number;
  readonly number: number;
  readonly #wantWrite: (lane: OutboundLane) => void;
  readonly #window: number;
  #credit: number;
  #pending: Pending[] = [];
  #state: State = { at: "open" };
  #closedListener: (() => void) | null = null;
  /** Whether the channel has this lane in its round; kept here so that no set is needed. */
  queued = false;

  /** @param window bytes that may go before credit comes */
  constructor(stream: number, number: number, window: number, wantWrite: (lane: OutboundLane) => void) {
    this.stream = stream;
    this.number = number;
    this.#window = window;
    this.#credit = window;
    this.#wantWrite = wantWrite;
  }

  get ended(): boolean {
    return this.#state.at === "ended";
  }

  get ready(): boolean {
    if (this.#pending.length > 0) return this.#credit > 0;
    return this.#state.at === "ending";
  }

  /** `bytes` must stay as they are until `done`; it is called when they are with the operating system or dropped. */
  write(bytes: Uint8Array, done: () => void): void {
    if (this.#state.at !== "open" || bytes.length === 0) {
      done();
      return;
    }
    this.#pending.push({ bytes, at: 0, done });
    if (this.ready) this.#wantWrite(this);
  }

  end(done: () => void = ignore): void {
    if (this.#state.at !== "open") {
      done();
      return;
    }
    this.#state = { at: "ending", done };
    if (this.ready) this.#wantWrite(this);
  }

  /** The agent's Credit. @throws Malformed when it gives back more than it was sent. */
  give(bytes: number): void {
    if (bytes > this.#window - this.#credit) throw new Malformed("more credit than was used");
    this.#credit += bytes;
    if (this.ready) this.#wantWrite(this);
  }

  /** The next frame's worth, or null. */
  next(): Outgoing | null {
    const first = this.#pending[0];
    if (first === undefined) {
      if (this.#state.at !== "ending") return null;
      const { done } = this.#state;
      this.#state = { at: "ended" };
      return { kind: "end", done };
    }
    const length = Math.min(first.bytes.length - first.at, this.#credit, MAX_PAYLOAD_BYTES);
    if (length === 0) return null;
    const payload = first.bytes.subarray(first.at, first.at + length);
    first.at += length;
    this.#credit -= length;
    if (first.at < first.bytes.length) return { kind: "data", payload, done: null };
    this.#pending.shift();
    return { kind: "data", payload, done: first.done };
  }

  /** The stream is over: what waits is dropped, as a pipe drops what is written after its reader has gone. */
  close(): void {
    const pending = this.#pending;
    const state = this.#state;
    this.#pending = [];
    this.#state = { at: "ended" };
    for (const { done } of pending) done();
    if (state.at === "ending") state.done();
    this.#closedListener?.();
  }

  /** The lane as a Writable; it is destroyed, without an error, when the stream is over. */
  writable(): Writable {
    const writable = new Writable({
      highWaterMark: MAX_PAYLOAD_BYTES,
      write: (chunk: Buffer, _encoding, done) => this.write(chunk, () => done()),
      final: (done) => this.end(() => done()),
      destroy: (error, done) => {
        this.end();
        done(error);
      },
    });
    writable.on("error", ignore);
    this.onClose(() => {
      if (!writable.writableFinished) writable.destroy();
    });
    return writable;
  }

  onClose(listener: () => void): void {
    this.#closedListener = listener;
    if (this.#state.at === "ended") listener();
  }
}

function ignore(): void {}
