import { describe, expect, test } from "vitest";
import { Progress, formatBytes, formatDuration, type ProgressOptions } from "./progress.ts";

function fixture(options: Partial<ProgressOptions>): { written: string[]; clock: { ms: number }; progress: Progress } {
  const written: string[] = [];
  const clock = { ms: 0 };
  const write = (text: string): void => void written.push(text);
  const progress = new Progress("base image", { write, isTerminal: true, now: () => clock.ms, ...options });
  return { written, clock, progress };
}

describe("Progress", () => {
  test("draws one line over itself on a terminal, at most ten times a second", () => {
    const { written, clock, progress } = fixture({});
    for (let done = 0; done <= 50; done += 1) {
      clock.ms = done * 20;
      progress.update({ label: "downloading", done, total: 100 });
    }
    progress.finish("ready");
    expect(written).toHaveLength(12);
    expect(written[10]).toBe("\r\u001b[Kbase image [████████████░░░░░░░░░░░░]  50 %  downloading  1 s left");
    expect(written.at(-1)).toBe("\r\u001b[Kbase image: ready (1 s)\n");
  });

  test("never fills the last column", () => {
    const { written, progress } = fixture({ columns: 40 });
    progress.update({ label: "a label that does not fit in", done: 1, total: 2 });
    expect(written[0]?.replace("\r\u001b[K", "")).toHaveLength(39);
  });

  test("writes plain lines without a terminal, one for each label and one for a long silence", () => {
    const { written, clock, progress } = fixture({ isTerminal: false });
    for (const [ms, label, done] of [
      [0, "a", 0],
      [100, "a", 1],
      [200, "b", 20],
      [20_000, "b", 90],
    ] as const) {
      clock.ms = ms;
      progress.update({ label, done, total: 100 });
    }
    progress.finish("ready");
    expect(written).toEqual([
      "base image: 0 %  a\n",
      "base image: 20 %  b  800 ms left\n",
      "base image: 90 %  b  2 s left\n",
      "base image: ready (20 s)\n",
    ]);
  });

  test("shows a rate when it knows the unit, and no percentage when it does not know the total", () => {
    const { written, clock, progress } = fixture({ isTerminal: false, unit: "bytes" });
    clock.ms = 2000;
    progress.update({ label: "copying", done: 5_000_000, total: 0 });
    expect(written).toEqual(["base image: copying  2.5 MB/s\n"]);
  });

  test("stop takes the bar away once", () => {
    const { written, progress } = fixture({});
    progress.update({ label: "x", done: 0, total: 1 });
    progress.stop();
    progress.stop();
    expect(written.slice(1)).toEqual(["\r\u001b[K"]);
  });
});

test("durations and sizes are short and for people", () => {
  expect([1, 1499, 61_000, 125_000].map(formatDuration)).toEqual(["1 ms", "1 s", "1 min 1 s", "2 min 5 s"]);
  expect([0, 999, 1200, 123_456_789].map(formatBytes)).toEqual(["0 B", "999 B", "1.2 kB", "123 MB"]);
});
