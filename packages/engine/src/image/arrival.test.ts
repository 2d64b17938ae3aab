import { expect, test } from "vitest";
import { assign } from "./arrival.ts";
import { PullReport, type PullEvent } from "./pull-events.ts";

const blob = (name: string, size: number) => ({ digest: name, size });

test("a file under way counts for the first blob that has none and is large enough", () => {
  const blobs = [blob("whole", 10), blob("small", 5), blob("large", 100), blob("next", 100)];
  const bytes = assign(blobs, (digest) => digest === "whole", [50, 3]).map((one) => one.bytes);
  expect(bytes).toEqual([10, 3, 50, 0]);
  expect(assign([blob("a", 5)], () => false, [])).toEqual([{ ...blob("a", 5), bytes: 0, whole: false }]);
});

test("events tell what has changed, of layers only", () => {
  const events: PullEvent[] = [];
  const report = new PullReport([blob("a", 10)], (event) => events.push(event));
  for (const bytes of [0, 4, 4]) report.arrived([{ ...blob("a", 10), bytes, whole: false }]);
  report.arrived([
    { ...blob("a", 10), bytes: 10, whole: true },
    { ...blob("config", 3), bytes: 3, whole: true },
  ]);
  expect(events.map((event) => (event.kind === "layer" ? `${event.state} ${event.done}/${event.total}` : ""))).toEqual([
    "waiting 0/10",
    "downloading 4/10",
    "downloaded 10/10",
  ]);
});
