import { MAX_LIST_ITEMS } from "./wire.gen.ts";

/** The bytes do not say what they claim to say. Never carries the bytes themselves. */
export class Malformed extends Error {
  override readonly name = "Malformed";
}

const utf8 = new TextDecoder("utf-8", { fatal: true });
const encoder = new TextEncoder();
const INITIAL_BYTES = 256;

/** Little-endian, lengths before contents: u32 for strings and bytes, u16 for lists. */
export class WireWriter {
  #buffer = Buffer.allocUnsafe(INITIAL_BYTES);
  #length = 0;

  #reserve(bytes: number): number {
    const at = this.#length;
    const need = at + bytes;
    if (need > this.#buffer.length) {
      const grown = Buffer.allocUnsafe(Math.max(need, this.#buffer.length * 2));
      this.#buffer.copy(grown, 0, 0, at);
      this.#buffer = grown;
    }
    this.#length = need;
    return at;
  }

  u8(v: number): void {
    const at = this.#reserve(1);
    this.#buffer.writeUInt8(v, at);
  }
  u16(v: number): void {
    const at = this.#reserve(2);
    this.#buffer.writeUInt16LE(v, at);
  }
  u32(v: number): void {
    const at = this.#reserve(4);
    this.#buffer.writeUInt32LE(v, at);
  }
  i32(v: number): void {
    const at = this.#reserve(4);
    this.#buffer.writeInt32LE(v, at);
  }
  u64(v: bigint): void {
    const at = this.#reserve(8);
    this.#buffer.writeBigUInt64LE(v, at);
  }
  i64(v: bigint): void {
    const at = this.#reserve(8);
    this.#buffer.writeBigInt64LE(v, at);
  }
  bool(v: boolean): void {
    this.u8(v ? 1 : 0);
  }
  bytes(v: Uint8Array): void {
    this.u32(v.length);
    const at = this.#reserve(v.length);
    this.#buffer.set(v, at);
  }
  str(v: string): void {
    this.bytes(encoder.encode(v));
  }
  list<T>(items: readonly T[], write: (item: T) => void): void {
    if (items.length > MAX_LIST_ITEMS)
      throw new Malformed(`a list of ${items.length} items, at most ${MAX_LIST_ITEMS}`);
    this.u16(items.length);
    for (const item of items) write(item);
  }
  finish(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }
}

/** Reads what WireWriter writes; every read is checked against what is left, before anything is allocated. */
export class WireReader {
  readonly #buffer: Buffer;
  #at = 0;

  constructor(payload: Uint8Array) {
    this.#buffer = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
  }

  #take(bytes: number): number {
    const at = this.#at;
    if (bytes > this.#buffer.length - at) throw new Malformed("a field reaches past the end of its message");
    this.#at = at + bytes;
    return at;
  }

  u8(): number {
    return this.#buffer.readUInt8(this.#take(1));
  }
  u16(): number {
    return this.#buffer.readUInt16LE(this.#take(2));
  }
  u32(): number {
    return this.#buffer.readUInt32LE(this.#take(4));
  }
  i32(): number {
    return this.#buffer.readInt32LE(this.#take(4));
  }
  u64(): bigint {
    return this.#buffer.readBigUInt64LE(this.#take(8));
  }
  i64(): bigint {
    return this.#buffer.readBigInt64LE(this.#take(8));
  }
  bool(): boolean {
    const v = this.u8();
    if (v > 1) throw new Malformed("a boolean that is neither 0 nor 1");
    return v === 1;
  }
  bytes(): Uint8Array {
    const length = this.u32();
    const at = this.#take(length);
    return Uint8Array.prototype.slice.call(this.#buffer, at, at + length);
  }
  str(): string {
    const length = this.u32();
    const at = this.#take(length);
    try {
      return utf8.decode(this.#buffer.subarray(at, at + length));
    } catch {
      throw new Malformed("a string that is not UTF-8");
    }
  }
  list<T>(read: () => T): T[] {
    const count = this.u16();
    if (count > MAX_LIST_ITEMS) throw new Malformed("a list longer than allowed");
    const items: T[] = [];
    for (let i = 0; i < count; i += 1) items.push(read());
    return items;
  }
  /** Fails when bytes are left: a message is exactly its fields. */
  finish(): void {
    if (this.#at !== this.#buffer.length) throw new Malformed("bytes after the last field of a message");
  }
}
