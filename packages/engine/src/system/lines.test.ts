import { PassThrough } from "node:stream";
import fc from "fast-check";
import { expect, test } from "vitest";
import { splitLines } from "./lines.ts";

async function split(chunks: readonly Buffer[], maxChars: number): Promise<{ lines: string[]; tooLong: number }> {
  const stream = new PassThrough();
  const seen = { lines: [] as string[], tooLong: 0 };
  const ended = new Promise<void>((resolve) => {
    splitLines(stream, maxChars, {
      line: (text) => seen.lines.push(text),
      end: resolve,
      tooLong: () => ((seen.tooLong += 1), resolve()),
    });
  });
  for (const chunk of chunks) stream.write(chunk);
  stream.end();
  await ended;
  return seen;
}

test("lines come out whole however the bytes are cut", async () => {
  const text = fc.array(fc.string({ unit: "grapheme", maxLength: 20 }).map((line) => line.replaceAll("\n", "")));
  await fc.assert(
    fc.asyncProperty(text, fc.integer({ min: 1, max: 7 }), async (lines, size) => {
      const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(""));
      const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) =>
        bytes.subarray(index * size, (index + 1) * size),
      );
      expect((await split(chunks, 1000)).lines).toEqual(lines);
    }),
    { numRuns: 200 },
  );
});

test("a line that never ends is given up once, and nothing after it is read", async () => {
  const chunks = Array.from({ length: 50 }, () => Buffer.from("x".repeat(100)));
  expect(await split([Buffer.from("first\n"), ...chunks, Buffer.from("\nlater\n")], 1000)).toEqual({
    lines: ["first"],
    tooLong: 1,
  });
});
