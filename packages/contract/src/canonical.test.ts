import fc from "fast-check";
import { expect, test } from "vitest";
import { canonicalJson, planDigest } from "./canonical.ts";
import type { Plan } from "./plan.ts";

function reversed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(reversed);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .reverse()
      .map(([key, item]) => [key, reversed(item)]),
  );
}

test("the order of keys changes neither text nor digest", async () => {
  await fc.assert(
    fc.asyncProperty(fc.jsonValue(), async (value) => {
      expect(canonicalJson(reversed(value))).toBe(canonicalJson(value));
      expect(JSON.parse(canonicalJson(value))).toEqual(JSON.parse(JSON.stringify(value)));
      expect(await planDigest(reversed(value) as Plan)).toBe(await planDigest(value as unknown as Plan));
    }),
  );
});

test("the digest is sha256 over the canonical text", async () => {
  expect(await planDigest({} as Plan)).toBe("sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
});

test("the order of a list matters", () => expect(canonicalJson([1, 2])).not.toBe(canonicalJson([2, 1])));

test.each([Number.NaN, 1n, () => 0])("%s is refused, not turned into null", (value) => {
  expect(() => canonicalJson({ value })).toThrow(TypeError);
});
