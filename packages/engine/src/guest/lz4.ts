/** Frame of `lz4 -l`, the only kind the kernel's build makes (lz4: doc/lz4_Frame_format.md, "Legacy frame"). */
export const LZ4_LEGACY_MAGIC = 0x184c2102;
const BLOCK_MAX_BYTES = 8 * 1024 * 1024;
const MIN_MATCH = 4;
/** A length that fills its four bits goes on in bytes, up to one that is not full. */
const LENGTH_FULL = 15;
const BYTE_FULL = 255;
const LITERALS_SHIFT = 4;

/**
 * Unpacks a legacy frame into `size` bytes.
 *
 * @throws RangeError when the data is damaged or does not give exactly `size` bytes
 */
export function unpackLz4Legacy(data: Buffer, size: number): Buffer {
  const out = Buffer.alloc(size);
  if (data.readUInt32LE(0) !== LZ4_LEGACY_MAGIC) throw new RangeError("this is no legacy LZ4 frame");
  let [from, to] = [4, 0];
  while (from < data.length) {
    const length = data.readUInt32LE(from);
    from += 4;
    // Frames may follow one another.
    if (length === LZ4_LEGACY_MAGIC) continue;
    if (length > data.length - from) throw new RangeError("an LZ4 block is longer than the data");
    to = unpackBlock(data.subarray(from, from + length), out, to);
    from += length;
  }
  if (to !== size) throw new RangeError(`LZ4 data gives ${to} bytes, ${size} were announced`);
  return out;
}

/** Returns where the block's output ends. Matches do not reach behind `start`. */
function unpackBlock(data: Buffer, out: Buffer, start: number): number {
  const end = Math.min(out.length, start + BLOCK_MAX_BYTES);
  let [from, to] = [0, start];
  const lengthFrom = (nibble: number): number => {
    let length = nibble;
    if (nibble !== LENGTH_FULL) return length;
    for (;;) {
      const more = data.readUInt8(from++);
      length += more;
      if (more !== BYTE_FULL) return length;
    }
  };
  while (from < data.length) {
    const token = data.readUInt8(from++);
    const literals = lengthFrom(token >> LITERALS_SHIFT);
    if (literals > data.length - from || literals > end - to) throw new RangeError("LZ4 literals run over the end");
    data.copy(out, to, from, from + literals);
    from += literals;
    to += literals;
    // The last sequence of a block has literals only.
    if (from === data.length) return to;
    const offset = data.readUInt16LE(from);
    from += 2;
    const match = lengthFrom(token & LENGTH_FULL) + MIN_MATCH;
    if (offset === 0 || offset > to - start || match > end - to) throw new RangeError("an LZ4 match is out of bounds");
    copyMatch(out, to, offset, match);
    to += match;
  }
  throw new RangeError("an LZ4 block ends in a match");
}

/** A match may reach into what it writes, which repeats it. */
function copyMatch(out: Buffer, to: number, offset: number, length: number): void {
  if (offset >= length) {
    out.copyWithin(to, to - offset, to - offset + length);
    return;
  }
  for (let i = to; i < to + length; i += 1) out[i] = out[i - offset] ?? 0;
}
