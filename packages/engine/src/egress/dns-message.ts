import type { Address } from "@bulkhead/contract";

/**
 * The part of DNS that a stub asks and is answered with: one question, EDNS, addresses. Own code, because what reads a
 * sandbox's bytes should know nothing it does not need: no compression, no records but OPT.
 */
export const TYPE = { A: 1, AAAA: 28, OPT: 41 } as const;
export const CLASS_IN = 1;
export const RCODE = {
  noError: 0,
  formatError: 1,
  serverFailure: 2,
  noSuchName: 3,
  notImplemented: 4,
  badVersion: 16,
} as const;
/** Extended errors (RFC 8914): why there is no answer. */
export const EXTENDED = { networkError: 23, prohibited: 18, invalidData: 24 } as const;

const HEADER_BYTES = 12;
const NAME_MAX_BYTES = 255;
const LABEL_MAX_BYTES = 63;
/** What UDP carries without EDNS (RFC 1035), and what fits one packet nearly everywhere with it. */
const PLAIN_UDP_BYTES = 512;
const MAX_UDP_BYTES = 1232;
const EDNS_BYTES = 11;
const EXTENDED_ERROR = 15;
/** With the longest question this still fits without EDNS. */
const EXTENDED_TEXT_MAX_BYTES = 160;

export interface Question {
  readonly id: number;
  readonly opcode: number;
  readonly recursionDesired: boolean;
  /** Labels joined by dots; null where a label has a dot, a zero or anything else that is not printable ASCII. */
  readonly name: string | null;
  readonly type: number;
  readonly klass: number;
  /** The question's bytes, which the answer repeats: some programs compare the letters' case. */
  readonly section: Uint8Array;
  /** What the asker takes over UDP, when it speaks EDNS. */
  readonly edns: { readonly udpBytes: number; readonly version: number } | null;
}

class Cursor {
  readonly #view: DataView;
  readonly bytes: Uint8Array;
  at = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u8(): number {
    return this.#view.getUint8(this.at++);
  }

  u16(): number {
    const value = this.#view.getUint16(this.at);
    this.at += 2;
    return value;
  }

  skip(count: number): void {
    if (this.at + count > this.bytes.length) throw new RangeError("beyond the end");
    this.at += count;
  }

  /** @throws RangeError for a compressed name, one that is too long, or one that is cut off. */
  name(): string | null {
    const start = this.at;
    const labels: string[] = [];
    let printable = true;
    for (;;) {
      const length = this.u8();
      if (length === 0) break;
      if (length > LABEL_MAX_BYTES) throw new RangeError("no plain label");
      const from = this.at;
      this.skip(length);
      if (this.at - start >= NAME_MAX_BYTES) throw new RangeError("too long a name");
      const label = this.bytes.subarray(from, this.at);
      printable &&= label.every((byte) => byte > 0x20 && byte < 0x7f && byte !== 0x2e);
      labels.push(String.fromCharCode(...label));
    }
    return printable ? labels.join(".") : null;
  }
}

function readEdns(cursor: Cursor, count: number): Question["edns"] {
  let edns: Question["edns"] = null;
  for (let i = 0; i < count; i++) {
    // The only record a stub adds is OPT, once, at the root.
    if (cursor.name() !== "" || cursor.u16() !== TYPE.OPT || edns !== null) throw new RangeError("another record");
    const udpBytes = cursor.u16();
    cursor.u8();
    const version = cursor.u8();
    cursor.u16();
    cursor.skip(cursor.u16());
    edns = { udpBytes, version };
  }
  return edns;
}

/**
 * Reads what a program asks.
 * @returns the question; its id alone for a message that is none of ours to understand; null for an answer or less than a header.
 */
export function readQuestion(message: Uint8Array): Question | { readonly malformed: number } | null {
  if (message.length < HEADER_BYTES) return null;
  const cursor = new Cursor(message);
  const id = cursor.u16();
  const flags = cursor.u16();
  if ((flags & 0x8000) !== 0) return null;
  const [questions, answers, authorities, additional] = [cursor.u16(), cursor.u16(), cursor.u16(), cursor.u16()];
  if (questions !== 1 || answers !== 0 || authorities !== 0 || additional > 1) return { malformed: id };
  try {
    const name = cursor.name();
    const type = cursor.u16();
    const klass = cursor.u16();
    const section = message.slice(HEADER_BYTES, cursor.at);
    const edns = readEdns(cursor, additional);
    if (cursor.at !== message.length) return { malformed: id };
    const opcode = (flags >> 11) & 0xf;
    return { id, opcode, recursionDesired: (flags & 0x0100) !== 0, name, type, klass, section, edns };
  } catch (error) {
    if (error instanceof RangeError) return { malformed: id };
    throw error;
  }
}

export interface Answer {
  readonly rcode: number;
  readonly addresses?: readonly Address[];
  /** Seconds. */
  readonly ttl?: number;
  readonly extended?: { readonly code: number; readonly text: string };
}

function addressRecord({ family, value }: Address, ttl: number): Buffer {
  const data = Buffer.from(value.toString(16).padStart(family === 4 ? 8 : 32, "0"), "hex");
  const head = Buffer.alloc(12);
  // The owner's name is the question's, at the first byte after the header.
  head.writeUInt16BE(0xc000 | HEADER_BYTES, 0);
  head.writeUInt16BE(family === 4 ? TYPE.A : TYPE.AAAA, 2);
  head.writeUInt16BE(CLASS_IN, 4);
  head.writeUInt32BE(ttl, 6);
  head.writeUInt16BE(data.length, 10);
  return Buffer.concat([head, data]);
}

function ednsRecord(rcode: number, extended: Answer["extended"]): Buffer {
  let option = Buffer.alloc(0);
  if (extended !== undefined) {
    const text = Buffer.from(extended.text).subarray(0, EXTENDED_TEXT_MAX_BYTES);
    option = Buffer.alloc(6 + text.length);
    option.writeUInt16BE(EXTENDED_ERROR, 0);
    option.writeUInt16BE(2 + text.length, 2);
    option.writeUInt16BE(extended.code, 4);
    text.copy(option, 6);
  }
  const head = Buffer.alloc(EDNS_BYTES);
  head.writeUInt16BE(TYPE.OPT, 1);
  head.writeUInt16BE(MAX_UDP_BYTES, 3);
  head.writeUInt8(rcode >> 4, 5);
  head.writeUInt16BE(option.length, 9);
  return Buffer.concat([head, option]);
}

function header(id: number, flags: number, counts: readonly [number, number, number]): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES);
  bytes.writeUInt16BE(id, 0);
  bytes.writeUInt16BE(flags, 2);
  const [questions, answers, additional] = counts;
  bytes.writeUInt16BE(questions, 4);
  bytes.writeUInt16BE(answers, 6);
  bytes.writeUInt16BE(additional, 10);
  return bytes;
}

/** An answer: QR, RA; RD as asked. */
const RESPONSE = 0x8080;
const TRUNCATED = 0x0200;

/** @returns the answer to a message that could not be read. */
export function writeFormatError(id: number): Buffer {
  return header(id, RESPONSE | RCODE.formatError, [0, 0, 0]);
}

/** @returns the answer's bytes; over UDP without addresses and marked as cut off when they do not fit. */
export function writeAnswer(question: Question, answer: Answer, transport: "udp" | "tcp"): Buffer {
  const { id, opcode, recursionDesired, section, edns } = question;
  const { rcode, addresses = [], ttl = 0, extended } = answer;
  const flags = RESPONSE | (opcode << 11) | (recursionDesired ? 0x0100 : 0) | (rcode & 0xf);
  const tail = edns === null ? Buffer.alloc(0) : ednsRecord(rcode, extended);
  const records = addresses.map((address) => addressRecord(address, ttl));
  const counts = [1, records.length, edns === null ? 0 : 1] as const;
  const whole = Buffer.concat([header(id, flags, counts), section, ...records, tail]);
  const room = edns === null ? PLAIN_UDP_BYTES : Math.min(Math.max(edns.udpBytes, PLAIN_UDP_BYTES), MAX_UDP_BYTES);
  if (transport === "tcp" || whole.length <= room) return whole;
  return Buffer.concat([header(id, flags | TRUNCATED, [1, 0, counts[2]]), section, tail]);
}
