import { describe, expect, test } from "vitest";
import { fc, fuzz } from "../testing/fuzz.ts";
import { ByteQueue, owned } from "./byte-queue.ts";

describe("ByteQueue", () => {
  test("many small pieces of large chunks cost their bytes, not their chunks", () => {
    const queue = new ByteQueue();
    for (let i = 0; i < 20_000; i += 1) queue.append(Buffer.allocUnsafeSlow(65_536).subarray(0, 13));
    const blocks: Buffer[] = [];
    expect(queue.length).toBe(260_000);
    for (let block = queue.shift(); block !== null; block = queue.shift()) blocks.push(block);
    expect(blocks.length).toBeLessThan(40);
    const memory = new Set(blocks.map((block) => block.buffer));
    expect([...memory].reduce((sum, one) => sum + one.byteLength, 0)).toBeLessThan(4 * 260_000 + 65_536);
  });

  test("a kept piece keeps at most four times its size alive", () => {
    const chunk = Buffer.allocUnsafeSlow(65_536);
    expect(owned(chunk.subarray(0, 16_384)).buffer).toBe(chunk.buffer);
    expect(owned(chunk.subarray(0, 16_383)).buffer).not.toBe(chunk.buffer);
  });

  fuzz(
    "bytes come out as they went in",
    [fc.array(fc.oneof(fc.nat(30), fc.nat(40_000), fc.constant(-1)), { maxLength: 60 })],
    (steps) => {
      const queue = new ByteQueue();
      let next = 0;
      let expected = 0;
      const check = (block: Buffer): void => {
        for (const byte of block) if (byte !== (expected++ & 0xff)) throw new Error(`byte ${expected}`);
      };
      for (const step of steps) {
        if (step >= 0) queue.append(Buffer.from(Array.from({ length: step }, () => next++ & 0xff)));
        else check(queue.shift() ?? Buffer.alloc(0));
        expect(queue.length).toBe(next - expected);
      }
      check(queue.takeAll());
      expect([expected, queue.length]).toEqual([next, 0]);
    },
  );
});
