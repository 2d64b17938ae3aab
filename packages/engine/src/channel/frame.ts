import { AnswerHunt, type Answer } from "./attach.ts";
import { Malformed, WireWriter } from "./codec.ts";
import { MAX_PAYLOAD_BYTES, TYPE, writeMessage, type Message } from "./wire.gen.ts";

export const HEADER_BYTES = 12;
export const TAG_BYTES = 4;
/** Below this a frame goes out as one small buffer: three entries of an I/O vector cost more than the copy. */
const JOIN_BELOW_BYTES = 4096;
/** Offsets within the header, as agent/wire/README.md has them. */
const AT = { length: 0, stream: 4, type: 8, lane: 9, reserved: 10 } as const;

export interface FrameSink {
  /** The agent's answer to our attach; frames follow. */
  answer(answer: Answer): void;
  /** `payload` may share memory with the chunk it came in, so whoever keeps a small one copies it. */
  frame(stream: number, type: number, lane: number, payload: Buffer): void;
}

/** A frame of which only a part has arrived. Its memory is bounded by one payload. */
type Partial =
  | { readonly at: "header"; filled: number }
  | {
      readonly at: "body";
      readonly stream: number;
      readonly type: number;
      readonly lane: number;
      readonly body: Buffer;
      filled: number;
    };

type State = { readonly at: "hunting"; readonly hunt: AnswerHunt } | { readonly at: "synced"; partial: Partial };

/**
 * Turns a byte stream in chunks of any size into frames. A frame that lies within one chunk is handed over without a
 * copy. Throws Malformed for anything that is no frame; after that the decoder must not be used any more.
 */
export class FrameDecoder {
  readonly #tag: number;
  readonly #header = Buffer.alloc(HEADER_BYTES);
  #state: State;

  /** @param hunt looks for the agent's answer first; without it the stream starts with a frame. */
  constructor(tag: number, hunt?: AnswerHunt) {
    this.#tag = tag;
    this.#state = hunt === undefined ? { at: "synced", partial: { at: "header", filled: 0 } } : { at: "hunting", hunt };
  }

  get synced(): boolean {
    return this.#state.at === "synced";
  }

  push(chunk: Buffer, sink: FrameSink): void {
    if (this.#state.at === "synced") {
      this.#frames(this.#state, chunk, sink);
      return;
    }
    const found = this.#state.hunt.push(chunk);
    if (found === null) return;
    const synced: State & { at: "synced" } = { at: "synced", partial: { at: "header", filled: 0 } };
    this.#state = synced;
    sink.answer(found.answer);
    this.#frames(synced, found.rest, sink);
  }

  #frames(state: State & { at: "synced" }, chunk: Buffer, sink: FrameSink): void {
    let at = this.#resume(state, chunk, sink);
    const end = chunk.length;
    while (end - at >= HEADER_BYTES) {
      const length = checkedLength(chunk, at);
      const next = at + HEADER_BYTES + length + TAG_BYTES;
      if (next > end) break;
      this.#checkTag(chunk, next - TAG_BYTES);
      sink.frame(
        chunk.readUInt32LE(at + AT.stream),
        chunk[at + AT.type] as number,
        chunk[at + AT.lane] as number,
        chunk.subarray(at + HEADER_BYTES, next - TAG_BYTES),
      );
      at = next;
    }
    while (at < end) at = this.#collect(state, chunk, at);
  }

  /** Goes on with the frame the last chunk left unfinished. @returns where in `chunk` the next frame starts. */
  #resume(state: State & { at: "synced" }, chunk: Buffer, sink: FrameSink): number {
    let at = 0;
    while (at < chunk.length && (state.partial.at === "body" || state.partial.filled > 0)) {
      at = this.#collect(state, chunk, at);
      const partial = state.partial;
      if (partial.at === "body" && partial.filled === partial.body.length) {
        const length = partial.body.length - TAG_BYTES;
        state.partial = { at: "header", filled: 0 };
        this.#checkTag(partial.body, length);
        sink.frame(partial.stream, partial.type, partial.lane, partial.body.subarray(0, length));
      }
    }
    return at;
  }

  /** Copies what `chunk` holds of the unfinished header or body. @returns how far it came. */
  #collect(state: State & { at: "synced" }, chunk: Buffer, at: number): number {
    const partial = state.partial;
    const target = partial.at === "header" ? this.#header : partial.body;
    const copied = chunk.copy(target, partial.filled, at, Math.min(chunk.length, at + target.length - partial.filled));
    partial.filled += copied;
    if (partial.at === "header" && partial.filled === HEADER_BYTES) {
      const length = checkedLength(this.#header, 0);
      state.partial = {
        at: "body",
        stream: this.#header.readUInt32LE(AT.stream),
        type: this.#header[AT.type] as number,
        lane: this.#header[AT.lane] as number,
        body: Buffer.allocUnsafe(length + TAG_BYTES),
        filled: 0,
      };
    }
    return at + copied;
  }

  #checkTag(bytes: Buffer, at: number): void {
    if (bytes.readUInt32LE(at) !== this.#tag) throw new Malformed("a frame that ends with a wrong tag");
  }
}

/** Every check a header admits, before anything is allocated for its payload. */
function checkedLength(bytes: Buffer, at: number): number {
  const length = bytes.readUInt32LE(at + AT.length);
  if (length > MAX_PAYLOAD_BYTES) throw new Malformed(`a frame of ${length} bytes, at most ${MAX_PAYLOAD_BYTES}`);
  if (bytes.readUInt16LE(at + AT.reserved) !== 0) throw new Malformed("a frame whose reserved bytes are not 0");
  return length;
}

/** Writes frames that end with one session's tag. */
export class FrameEncoder {
  readonly #tag: number;
  readonly #tagBytes = Buffer.alloc(TAG_BYTES);

  constructor(tag: number) {
    this.#tag = tag;
    this.#tagBytes.writeUInt32LE(tag);
  }

  /** @throws Malformed when the message does not fit into a frame. */
  message(stream: number, lane: number, message: Message): Buffer {
    const w = new WireWriter();
    w.u32(0);
    w.u32(stream);
    w.u8(TYPE[message.name]);
    w.u8(lane);
    w.u16(0);
    writeMessage(w, message);
    w.u32(this.#tag);
    const frame = w.finish();
    const length = frame.length - HEADER_BYTES - TAG_BYTES;
    if (length > MAX_PAYLOAD_BYTES) throw new Malformed(`a message of ${length} bytes, at most ${MAX_PAYLOAD_BYTES}`);
    frame.writeUInt32LE(length, AT.length);
    return frame;
  }

  /** One frame in one or three buffers; `payload` is not copied when it is large. At most MAX_PAYLOAD_BYTES. */
  data(stream: number, lane: number, payload: Uint8Array): readonly Uint8Array[] {
    const join = payload.length < JOIN_BELOW_BYTES;
    const head = Buffer.allocUnsafe(join ? HEADER_BYTES + payload.length + TAG_BYTES : HEADER_BYTES);
    head.writeUInt32LE(payload.length, AT.length);
    head.writeUInt32LE(stream, AT.stream);
    head[AT.type] = TYPE.Data;
    head[AT.lane] = lane;
    head.writeUInt16LE(0, AT.reserved);
    if (!join) return [head, payload, this.#tagBytes];
    head.set(payload, HEADER_BYTES);
    head.writeUInt32LE(this.#tag, HEADER_BYTES + payload.length);
    return [head];
  }
}
