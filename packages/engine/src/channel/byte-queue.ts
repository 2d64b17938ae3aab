/** From here on a piece is kept as it is; smaller ones are gathered, so that many small ones cost no more than their bytes. */
const GATHER_BELOW_BYTES = 16 * 1024;
/** Taken blocks leave holes at the front; a queue that is never quite empty must not grow by them. */
const COMPACT_AFTER_BLOCKS = 64;
/** A kept piece may keep alive at most this many times its own size. */
const MAX_RETENTION = 4;

/**
 * First in, first out, for bytes that come in pieces of hostile sizes: memory held is at most MAX_RETENTION times the bytes
 * held plus one block of Node's buffer pool, however small the pieces are.
 */
export class ByteQueue {
  #blocks: Buffer[] = [];
  #head = 0;
  /** The last block while small pieces are gathered in it; `filled` of it counts. */
  #tail: { block: Buffer; filled: number } | null = null;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  append(piece: Buffer): void {
    if (piece.length === 0) return;
    this.#length += piece.length;
    if (piece.length >= GATHER_BELOW_BYTES) {
      this.#seal();
      this.#blocks.push(owned(piece));
      return;
    }
    const tail = this.#tail;
    if (tail === null) {
      // Most streams carry one small piece: it costs exactly itself.
      this.#tail = { block: Buffer.from(piece), filled: piece.length };
      return;
    }
    this.#gather(tail, piece);
  }

  #gather(tail: { block: Buffer; filled: number }, piece: Buffer): void {
    const need = tail.filled + piece.length;
    if (need > GATHER_BELOW_BYTES) {
      this.#seal();
      this.#tail = { block: Buffer.from(piece), filled: piece.length };
      return;
    }
    if (need > tail.block.length) {
      const grown = Buffer.allocUnsafe(Math.min(GATHER_BELOW_BYTES, Math.max(need, tail.block.length * 2)));
      tail.block.copy(grown, 0, 0, tail.filled);
      tail.block = grown;
    }
    piece.copy(tail.block, tail.filled);
    tail.filled = need;
  }

  #seal(): void {
    if (this.#tail === null) return;
    this.#blocks.push(this.#tail.block.subarray(0, this.#tail.filled));
    this.#tail = null;
  }

  /** @returns the oldest bytes, in a piece of any size, or null when there are none. */
  shift(): Buffer | null {
    if (this.#head === this.#blocks.length) {
      this.#blocks = [];
      this.#head = 0;
      this.#seal();
      if (this.#blocks.length === 0) return null;
    }
    const block = this.#blocks[this.#head] as Buffer;
    this.#blocks[this.#head] = EMPTY;
    this.#head += 1;
    this.#length -= block.length;
    if (this.#head === COMPACT_AFTER_BLOCKS) {
      this.#blocks = this.#blocks.slice(this.#head);
      this.#head = 0;
    }
    return block;
  }

  /** Takes everything out as one buffer. */
  takeAll(): Buffer {
    this.#seal();
    const blocks = this.#head === 0 ? this.#blocks : this.#blocks.slice(this.#head);
    const whole = blocks.length === 1 ? (blocks[0] as Buffer) : Buffer.concat(blocks, this.#length);
    this.clear();
    return whole;
  }

  clear(): void {
    this.#blocks = [];
    this.#head = 0;
    this.#tail = null;
    this.#length = 0;
  }
}

const EMPTY = Buffer.alloc(0);

/** A buffer safe to keep: the piece itself, or a copy when it would keep much more memory than its own alive. */
export function owned(piece: Buffer): Buffer {
  return piece.length * MAX_RETENTION >= piece.buffer.byteLength ? piece : Buffer.from(piece);
}
