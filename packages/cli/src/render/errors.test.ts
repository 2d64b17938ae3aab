import { BulkheadError } from "@bulkhead/contract";
import { expect, test } from "vitest";
import { asBulkheadError, renderError } from "./errors.ts";
import { columns, makeStyle, printable } from "./style.ts";

test("three lines, no colour unless asked for", () => {
  const error = new BulkheadError("IMAGE_NOT_FOUND", { what: 'image "x" is not in the store', why: "w", next: "n" });
  expect(renderError(error, makeStyle(false), false)).toBe(
    'bulkhead: image "x" is not in the store\n  why:  w\n  next: n\n',
  );
  expect(renderError(error, makeStyle(true), false)).toContain("\u001b[31mbulkhead:");
});

test("why and next come from the registry when the place that failed knows no better", () => {
  expect(renderError(new BulkheadError("HOST_NOT_ROOT", { what: "x" }), makeStyle(false), false)).toMatch(/sudo/);
});

test("a guest's bytes cannot drive the terminal", () => {
  expect(printable("a\u001b[2Jb\nc\u0007")).toBe("a\ufffd[2Jb c\ufffd");
});

test("what nobody expected says that it is our fault", () => {
  const lines = renderError(asBulkheadError(new TypeError("boom")), makeStyle(false), true);
  expect(lines).toMatch(/internal error: boom/);
  expect(lines).toMatch(/TypeError: boom/);
});

test("columns line up without trailing blanks", () => {
  expect(
    columns([
      ["a", "b"],
      ["long", ""],
    ]),
  ).toBe("a     b\nlong");
});

test("of two failures the first is shown", () => {
  const first = new BulkheadError("TIMEOUT", { what: "first" });
  expect(asBulkheadError(new SuppressedError(new Error("undoing"), first))).toBe(first);
});
