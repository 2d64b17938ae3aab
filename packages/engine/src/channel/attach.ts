import { randomBytes } from "node:crypto";
import { Malformed } from "./codec.ts";
import { GENERATION, MAGIC_ATTACH, MAGIC_ATTACHED, MAX_PAYLOAD_BYTES } from "./wire.gen.ts";

const NONCE_BYTES = 16;
const MAGIC_BYTES = 16;
/** magic · generation · three zeros · nonce */
const ANSWER_BYTES = MAGIC_BYTES + 4 + NONCE_BYTES;
/** What a dead host may have left half-written: header, payload and tag. */
const RESYNC_BYTES = MAX_PAYLOAD_BYTES + 16;
/** As the header of a frame they are none: an agent that is between two frames hunts from there on. */
const NO_HEADER_BYTES = 12;
/**
 * What can lie between us and the answer: a virtio-serial port's queue (128 buffers of at most 32 KiB; a pipe holds 1 MiB at
 * most, fs.pipe-max-size) and the frame the agent had begun.
 */
export const HUNT_LIMIT_BYTES = 128 * 32 * 1024 + RESYNC_BYTES + ANSWER_BYTES;

const MAGIC = Buffer.from(MAGIC_ATTACHED, "hex");

/** What one attach is known by, on both ends. */
export interface Session {
  readonly tag: number;
  readonly nonce: Buffer;
}

/** No byte of the tag is 0, so that the zeros of a later attach can never end a frame of this session. */
export function newSession(): Session {
  const tag = Buffer.from(randomBytes(4).map((byte) => 1 + (byte % 255)));
  return { tag: tag.readUInt32LE(), nonce: randomBytes(NONCE_BYTES) };
}

/** What was written to an agent before: nothing, whole frames of another session, or anything. */
export type Before = "nothing" | "frames" | "anything";

const RESYNC: Readonly<Record<Before, number>> = { nothing: 0, frames: NO_HEADER_BYTES, anything: RESYNC_BYTES };

export function attachBytes(session: Session, before: Before): Buffer {
  const hello = Buffer.alloc(MAGIC_BYTES + 8 + NONCE_BYTES);
  hello.write(MAGIC_ATTACH, 0, "hex");
  hello[MAGIC_BYTES] = GENERATION;
  hello[MAGIC_BYTES + 1] = GENERATION;
  hello.writeUInt32LE(session.tag, MAGIC_BYTES + 4);
  session.nonce.copy(hello, MAGIC_BYTES + 8);
  return before === "nothing" ? hello : Buffer.concat([Buffer.alloc(RESYNC[before]), hello]);
}

export interface Answer {
  readonly generation: number;
}

/** Looks for the agent's answer to this attach, through a bounded number of bytes, in chunks of any size. */
export class AnswerHunt {
  readonly #nonce: Buffer;
  #carry: Buffer = Buffer.alloc(0);
  #seen = 0;

  constructor(nonce: Buffer) {
    this.#nonce = nonce;
  }

  /** @returns null until the answer is complete, then the answer and what came after it. */
  push(chunk: Buffer): { readonly answer: Answer; readonly rest: Buffer } | null {
    const bytes = this.#carry.length === 0 ? chunk : Buffer.concat([this.#carry, chunk]);
    const before = this.#seen;
    let from = 0;
    for (;;) {
      const at = bytes.indexOf(MAGIC, from);
      if (before + (at === -1 ? bytes.length : at) > HUNT_LIMIT_BYTES)
        throw new Malformed("no answer to our attach within the bytes allowed");
      if (at === -1) return this.#wait(bytes, Math.max(from, bytes.length - MAGIC_BYTES + 1));
      if (bytes.length - at < ANSWER_BYTES) return this.#wait(bytes, at);
      const answer = this.#answerAt(bytes, at);
      if (answer !== null) return { answer, rest: bytes.subarray(at + ANSWER_BYTES) };
      from = at + 1;
    }
  }

  #wait(bytes: Buffer, keepFrom: number): null {
    this.#seen += keepFrom;
    // A copy, because a subarray would keep the whole chunk alive.
    this.#carry = Buffer.from(bytes.subarray(keepFrom));
    return null;
  }

  /** An answer to somebody else's attach is skipped like any other bytes. */
  #answerAt(bytes: Buffer, at: number): Answer | null {
    const nonceAt = at + MAGIC_BYTES + 4;
    if (!bytes.subarray(nonceAt, nonceAt + NONCE_BYTES).equals(this.#nonce)) return null;
    const generation = bytes[at + MAGIC_BYTES] as number;
    if (generation !== 0 && generation !== GENERATION)
      throw new Malformed("an answer with a generation that was not offered");
    if (bytes.readUIntLE(at + MAGIC_BYTES + 1, 3) !== 0)
      throw new Malformed("an answer whose reserved bytes are not 0");
    return { generation };
  }
}
