import type { Writable } from "node:stream";
import type { FrameEncoder } from "./frame.ts";
import type { InboundLane } from "./inbound.ts";
import type { Outgoing, OutboundLane } from "./outbound.ts";
import type { Message } from "./wire.gen.ts";

/**
 * Decides what goes out next: control frames, then credit, then data, one frame per lane in turn. Nothing is handed to the
 * socket while it is full; credit and data wait as numbers in their lanes, so waiting costs no memory an agent could grow.
 */
export class Sender {
  readonly #writable: Writable;
  readonly #encoder: FrameEncoder;
  #control: Uint8Array[] = [];
  #controlBytes = 0;
  #credits: InboundLane[] = [];
  #lanes: OutboundLane[] = [];
  #held = 0;
  #full = false;
  #stopped = false;

  constructor(writable: Writable, encoder: FrameEncoder) {
    this.#writable = writable;
    this.#encoder = encoder;
    writable.on("drain", () => {
      this.#full = false;
      this.#pump();
    });
  }

  /** Bytes of control frames the agent has not made room for. */
  get waitingBytes(): number {
    return this.#controlBytes;
  }

  raw(bytes: Uint8Array): void {
    this.#controlBytes += bytes.length;
    this.#control.push(bytes);
    this.#pump();
  }

  control(stream: number, message: Message): void {
    if (this.#stopped) return;
    this.raw(this.#encoder.message(stream, 0, message));
  }

  wantCredit(lane: InboundLane): void {
    this.#credits.push(lane);
    this.#pump();
  }

  wantWrite(lane: OutboundLane): void {
    if (lane.queued) return;
    lane.queued = true;
    this.#lanes.push(lane);
    this.#pump();
  }

  /** Gathers everything that is asked for until `release` into as few system calls as possible. */
  hold(): void {
    this.#held += 1;
  }

  release(): void {
    this.#held -= 1;
    this.#pump();
  }

  stop(): void {
    this.#stopped = true;
    this.#control = [];
    this.#credits = [];
    this.#lanes = [];
  }

  #pump(): void {
    if (this.#held > 0 || this.#full || this.#stopped) return;
    if (this.#control.length + this.#credits.length + this.#lanes.length === 0) return;
    // Nothing that happens in here may pump again: a lane's `done` can write its next piece.
    this.#held += 1;
    this.#writable.cork();
    while (!this.#full && !this.#stopped && this.#step());
    this.#writable.uncork();
    this.#held -= 1;
  }

  /** @returns false when there is nothing to send. */
  #step(): boolean {
    const control = this.#control;
    if (control.length > 0) {
      this.#control = [];
      this.#controlBytes = 0;
      for (const frame of control) this.#write(frame);
      return true;
    }
    const credit = this.#credits.shift();
    if (credit !== undefined) {
      const bytes = credit.returnCredit();
      if (bytes > 0)
        this.#write(this.#encoder.message(credit.stream, credit.number, { name: "Credit", body: { bytes } }));
      return true;
    }
    const lane = this.#lanes.shift();
    if (lane === undefined) return false;
    lane.queued = false;
    const outgoing = lane.next();
    if (outgoing === null) return true;
    if (lane.ready) {
      lane.queued = true;
      this.#lanes.push(lane);
    }
    this.#outgoing(lane, outgoing);
    return true;
  }

  #outgoing(lane: OutboundLane, outgoing: Outgoing): void {
    if (outgoing.kind === "end") {
      this.#write(this.#encoder.message(lane.stream, lane.number, { name: "End", body: {} }));
      outgoing.done();
      return;
    }
    const parts = this.#encoder.data(lane.stream, lane.number, outgoing.payload);
    const { done } = outgoing;
    for (let i = 0; i < parts.length; i += 1) {
      this.#write(parts[i] as Uint8Array, i === parts.length - 1 && done !== null ? done : undefined);
    }
  }

  #write(bytes: Uint8Array, done?: () => void): void {
    if (!this.#writable.write(bytes, done)) this.#full = true;
  }
}
