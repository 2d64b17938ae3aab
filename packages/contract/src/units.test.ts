import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { formatBytes, formatDuration, parseBytes, parseCpus, parseDuration, parseWhole } from "./units.ts";

test.each([
  ["512m", 512 * 2 ** 20],
  ["1.5g", 1.5 * 2 ** 30],
  ["64KiB", 65_536],
  ["2 GB", 2 * 2 ** 30],
  ["1b", 1],
  ["0", 0],
])("parseBytes %s", (text, bytes) => expect(parseBytes(text)).toBe(bytes));

test.each([
  ["30s", 30_000],
  ["1m30s", 90_000],
  ["500ms", 500],
  ["2h", 7_200_000],
  ["10", 10_000],
  ["0.5", 500],
])("parseDuration %s", (text, ms) => expect(parseDuration(text)).toBe(ms));

describe("what is no size, duration, number", () => {
  test.each(["", "m", "-1", "1x", "1e3", "9999999t"])("size %j", (text) => {
    expect(() => parseBytes(text, "memory")).toThrow(/memory/);
  });
  test.each(["", "s", "-1s", "1y", "1s x", "ms1"])("duration %j", (text) => {
    expect(() => parseDuration(text, "timeout")).toThrow(/timeout/);
  });
  test.each(["", "-1", "1e3", "0x1", "."])("cpus %j", (text) => expect(() => parseCpus(text)).toThrow(/cpus/));
  test.each(["", "-1", "1.5", "1e3"])("whole %j", (text) => expect(() => parseWhole(text, "pids")).toThrow(/pids/));
});

test("every whole number with every unit is read exactly", () => {
  const unit = fc.constantFrom(["", 1], ["k", 1024], ["M", 1024 ** 2], ["gib", 1024 ** 3]);
  fc.assert(
    fc.property(fc.nat({ max: 100_000 }), unit, (amount, [name, size]) => {
      expect(parseBytes(`${amount}${name}`)).toBe(amount * Number(size));
    }),
  );
});

test("parts of a duration add up", () => {
  fc.assert(
    fc.property(fc.nat(100), fc.nat(100), fc.nat(100), (h, m, s) => {
      expect(parseDuration(`${h}h${m}m${s}s`)).toBe(((h * 60 + m) * 60 + s) * 1000);
    }),
  );
});

test("no text makes a reader return anything but a whole amount", () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      for (const read of [parseBytes, parseDuration]) {
        try {
          const value = read(text);
          expect(Number.isSafeInteger(value) && value >= 0).toBe(true);
        } catch (error) {
          expect(error).toMatchObject({ code: "SPEC_INVALID" });
        }
      }
    }),
  );
});

test("amounts for people", () => {
  expect(formatBytes(2 ** 30)).toBe("1 GiB");
  expect(formatBytes(1536)).toBe("1.5 KiB");
  expect(formatBytes(12)).toBe("12 B");
  expect(formatDuration(1500)).toBe("1.5 s");
  expect(formatDuration(50)).toBe("50 ms");
  expect(formatDuration(90_000)).toBe("1.5 min");
});
