import { expect, test } from "vitest";
import { Rate } from "./rated.ts";

/** Milliseconds that a MiB waits, each way, on a clock that stands. */
function waits(policy: { rateBytesPerSecond?: number; sendBytesPerSecond?: number; receiveBytesPerSecond?: number }) {
  const rate = new Rate(() => 0);
  rate.set({ allow: [], deny: [], ...policy });
  return [rate.leaving(1 << 20) > 0, rate.entering(1 << 20) > 0, rate.letLeave(1 << 20), rate.letEnter(1 << 20)];
}

test("each way has its own rate, or the common one", () => {
  const slow = 65_536;
  expect(waits({})).toEqual([false, false, true, true]);
  expect(waits({ rateBytesPerSecond: slow })).toEqual([true, true, false, false]);
  expect(waits({ sendBytesPerSecond: slow })).toEqual([true, false, false, true]);
  expect(waits({ receiveBytesPerSecond: slow })).toEqual([false, true, true, false]);
  // What is said of one way holds there, whatever is said of both.
  expect(waits({ rateBytesPerSecond: slow, sendBytesPerSecond: 1 << 30 })).toEqual([false, true, true, false]);
});
