import { expect, test } from "vitest";
import { figure, median, p95, table } from "./stats.ts";

test("quantiles take a value that was measured", () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([1, 2, 3, 4])).toBe(2);
  expect(p95(Array.from({ length: 100 }, (_, i) => i + 1))).toBe(95);
  expect(p95([7])).toBe(7);
  expect(median([])).toBeNaN();
});

test("figures have three digits", () => {
  expect([0.1234, 1.2345, 12.345, 123.45, 1234.5, 0].map(figure)).toEqual([
    "0.123",
    "1.23",
    "12.3",
    "123",
    "1235",
    "0",
  ]);
  expect(figure(Number.NaN)).toBe("-");
});

test("a table lines up", () => {
  expect(
    table(
      ["a", "bb"],
      [
        ["long", "1"],
        ["x", "22"],
      ],
    ),
  ).toBe("a     bb\n----  --\nlong   1\nx     22");
});
