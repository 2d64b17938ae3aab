import type { Limits } from "@bulkhead/contract";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Sandbox } from "./sandbox.ts";
import { watchTime } from "./time-limits.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

function boxWith(limits: Partial<Limits>): { box: Sandbox; ends: unknown[]; active: () => void } {
  const ends: unknown[] = [];
  let activeAt = performance.now();
  const box = {
    plan: { limits: { timeoutMs: null, idleTimeoutMs: null, ...limits } },
    get idleMs() {
      return performance.now() - activeAt;
    },
    endFor: async (...why: unknown[]) => void ends.push(why),
  };
  return { box: box as unknown as Sandbox, ends, active: () => void (activeAt = performance.now()) };
}

test("use puts off the idle limit, and nothing puts off the limit on time", async () => {
  const { box, ends, active } = boxWith({ timeoutMs: 3_500, idleTimeoutMs: 1_000 });
  using _watch = watchTime(box);
  for (let i = 0; i < 3; i += 1) {
    await vi.advanceTimersByTimeAsync(900);
    active();
  }
  expect(ends).toEqual([]);
  await vi.advanceTimersByTimeAsync(999);
  expect(ends).toEqual([["timeout", 3_500]]);
  await vi.advanceTimersByTimeAsync(1);
  expect(ends).toEqual([
    ["timeout", 3_500],
    ["idle", 1_000],
  ]);
});

test("a limit longer than a timer can wait is waited for, and one that is called off is not", async () => {
  const days = 40 * 24 * 3_600_000;
  const { box, ends } = boxWith({ timeoutMs: days });
  const watch = watchTime(box);
  await vi.advanceTimersByTimeAsync(days - 1);
  expect(ends).toEqual([]);
  watch[Symbol.dispose]();
  await vi.advanceTimersByTimeAsync(10);
  expect(ends).toEqual([]);
});
