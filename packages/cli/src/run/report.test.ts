import fc from "fast-check";
import { expect, test } from "vitest";
import type { Denial } from "@bulkhead/engine";
import { JsonReport, openTail } from "./report.ts";

async function linesOf(act: (report: JsonReport) => Promise<void>): Promise<Array<Record<string, unknown>>> {
  const written: Buffer[] = [];
  const output = { write: async (chunk: Uint8Array) => void written.push(Buffer.from(chunk)), end: async () => {} };
  await act(new JsonReport(output));
  return Buffer.concat(written)
    .toString()
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

test("text and base64 together lose no byte, however the chunks fall", async () => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 40 }),
    fc.string({ unit: "grapheme" }).map((s) => new TextEncoder().encode(s)),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(bytes, { maxLength: 6 }), async (chunks) => {
      const lines = await linesOf(async (report) => {
        for (const chunk of chunks) await report.chunk("stdout", chunk);
        await report.ended({ code: 0, signal: null }, 1);
      });
      const data = lines.filter((line) => line["type"] === "stdout");
      const again = data.map((line) =>
        typeof line["text"] === "string" ? Buffer.from(line["text"]) : Buffer.from(String(line["base64"]), "base64"),
      );
      expect(Buffer.concat(again).equals(Buffer.concat(chunks))).toBe(true);
    }),
  );
});

test("a character cut by a chunk's end is still text", async () => {
  const euro = new TextEncoder().encode("a€b");
  const lines = await linesOf(async (report) => {
    for (const byte of euro) await report.chunk("stderr", Uint8Array.of(byte));
    await report.ended({ code: 7, signal: null }, 12.4);
  });
  expect(
    lines
      .filter((l) => l["type"] === "stderr")
      .map((l) => l["text"])
      .join(""),
  ).toBe("a€b");
  expect(lines.at(-1)).toEqual({ type: "exit", code: 7, signal: null, limits: [], durationMs: 12 });
});

test.each([
  [[0x61], 0],
  [[0xe2], 1],
  [[0xe2, 0x82], 2],
  [[0xe2, 0x82, 0xac], 0],
  [[0xf0, 0x9f, 0x98], 3],
  [[0x80, 0x80, 0x80, 0x80], 0],
])("open tail of %j is %i bytes", (bytes, tail) => expect(openTail(Uint8Array.from(bytes))).toBe(tail));

test("a denial is a line, with the option that would allow it, and none comes after the end", async () => {
  const denial: Denial = {
    ...{ kind: "tcp" as const, name: "a.org", address: "192.0.2.1", port: 22, rule: null, why: "no rule" },
    ...{ allow: "192.0.2.1:22", count: 1, lastAt: 0 },
  };
  const lines = await linesOf(async (report) => {
    await report.denied(denial);
    await report.ended({ code: 0, signal: null }, 1);
    await report.denied(denial);
  });
  expect(lines).toHaveLength(2);
  const { count: _, lastAt: __, allow: ___, ...fields } = denial;
  expect(lines[0]).toEqual({ type: "denied", ...fields, next: "--network allow:192.0.2.1:22" });
});
