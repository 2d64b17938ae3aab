import type { Denial } from "@bulkhead/engine";
import { expect, test } from "vitest";
import { renderDenials } from "./denials.ts";
import { makeStyle } from "./style.ts";

const plain = makeStyle(false);
const denial = (why: string, allow: string | null): Denial => ({
  ...{ kind: "dns", name: null, address: null, port: null, rule: null },
  ...{ why, allow, count: 1, lastAt: 0 },
});

test("one line each, with the option that would allow it", () => {
  expect(renderDenials([], plain)).toBe("");
  expect(renderDenials([denial("no rule allows a.org", "a.org"), denial("closed\u001b", null)], plain)).toBe(
    "bulkhead: denied: no rule allows a.org; to allow it: --network allow:a.org\nbulkhead: denied: closed\ufffd\n",
  );
});

test("the last twenty, and how many more", () => {
  const text = renderDenials(
    Array.from({ length: 30 }, (_, i) => denial(`n${i}`, null)),
    plain,
  );
  expect(text.split("\n")).toHaveLength(22);
  expect(text).toMatch(/^bulkhead: denied: 10 more before these\n/);
  expect(text).toContain("n29");
});
