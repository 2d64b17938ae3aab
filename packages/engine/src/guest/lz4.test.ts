import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { unpackLz4Legacy } from "./lz4.ts";

/** A frame of blocks as they are. */
function frame(...blocks: readonly (readonly number[])[]): Buffer {
  const number = (value: number): Buffer => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(value);
    return bytes;
  };
  return Buffer.concat([number(0x184c2102), ...blocks.flatMap((block) => [number(block.length), Buffer.from(block)])]);
}

const ascii = (text: string): number[] => [...Buffer.from(text)];
/** Three letters, a match of 9 that repeats them, two more letters. */
const REPEATED = [0x35, ...ascii("abc"), 3, 0, 0x20, ...ascii("yz")];

describe("unpackLz4Legacy", () => {
  test("repeats a match that reaches into itself", () => {
    expect(unpackLz4Legacy(frame(REPEATED), 14).toString()).toBe("abcabcabcabcyz");
  });

  test("copies a match that does not, and goes on in the next block", () => {
    const block = [0x60, ...ascii("abcdef"), 6, 0, 0x10, ...ascii("!")];
    expect(unpackLz4Legacy(frame(block, block), 22).toString()).toBe("abcdefabcd!abcdefabcd!");
  });

  test("reads lengths that go on in further bytes", () => {
    const literals = Array.from({ length: 15 + 255 + 2 }, (_, i) => i % 251);
    const block = [0xff, 255, 2, ...literals, 1, 0, 255, 0, 0x00];
    const out = unpackLz4Legacy(frame(block), literals.length + 15 + 255 + 4);
    expect([...out.subarray(0, literals.length)]).toEqual(literals);
    expect(new Set(out.subarray(literals.length))).toEqual(new Set([literals.at(-1)]));
  });

  test.each([
    ["another size", frame(REPEATED), 13],
    ["more than there is", frame(REPEATED), 15],
    ["an offset of zero", frame([0x10, 97, 0, 0, 0x10, 97]), 6],
    ["an offset before the block", frame([0x10, 97, 2, 0, 0x10, 97]), 6],
    ["a block that ends in a match", frame([0x10, 97, 1, 0]), 5],
    ["a block that is longer than the data", frame(REPEATED).subarray(0, -1), 14],
    ["no frame", Buffer.from("12345678"), 1],
  ])("refuses %s", (_, data, size) => expect(() => unpackLz4Legacy(data, size)).toThrow(RangeError));

  test("damaged data ends in a RangeError or in as many bytes as were announced", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), fc.nat(200), (bytes, size) => {
        const data = frame([...bytes], REPEATED);
        try {
          expect(unpackLz4Legacy(data, size)).toHaveLength(size);
        } catch (error) {
          expect(error).toBeInstanceOf(RangeError);
        }
      }),
    );
  });
});
