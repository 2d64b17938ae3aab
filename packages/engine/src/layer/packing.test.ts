import { expect, test } from "vitest";
import { packFailure } from "./packing.ts";

test("what a packer says is told, without what a terminal acts on, and bounded", () => {
  const said = (error: object) => packFailure(`noise\n${JSON.stringify({ error })}\n`, "work");
  const plain = said({ kind: "bad-name", what: "in a layer this name would take something away", path: "d/.wh.x" });
  expect(plain).toMatchObject({ code: "IMAGE_REFUSED", details: { kind: "bad-name", path: "d/.wh.x" } });
  expect(plain?.message).toMatch(/work: in a layer .* at "d/);
  const hostile = said({
    kind: "io",
    what: `\u001b[2J${"x".repeat(10_000)}`,
    path: "\u001b[2J",
  });
  expect(hostile?.message).toMatch(/^[\x20-\x7e]{1,800}$/);
  expect(JSON.stringify(hostile?.details)).toMatch(/^[\x20-\x7e]{1,800}$/);
});

test("what is no such line is none", () => {
  for (const text of ["", "{", "null", "[]", '{"error":1}', '{"error":{"kind":"\u001b","what":"x"}}', '{"done":{}}']) {
    expect(packFailure(text, "work"), text).toBeNull();
  }
});
