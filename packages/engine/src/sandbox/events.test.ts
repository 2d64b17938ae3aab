import { expect, test } from "vitest";
import { type LimitHit, SandboxEvents } from "./events.ts";

const hit = (value: number): LimitHit => ({
  kind: "limit-hit",
  limit: "memory",
  value,
  atMs: 0,
  killed: null,
  toldBy: "host",
});

async function valuesOf(events: SandboxEvents): Promise<number[]> {
  const values: number[] = [];
  for await (const { value } of events.listen()) values.push(value);
  return values;
}

test("everybody who listens hears all, whenever they begin, until the end", async () => {
  const events = new SandboxEvents();
  events.emit(hit(1));
  const early = valuesOf(events);
  await Promise.resolve();
  events.emit(hit(2));
  const late = valuesOf(events);
  events.emit(hit(3));
  events.end();
  events.emit(hit(4));
  expect(await early).toEqual([1, 2, 3]);
  expect(await late).toEqual([1, 2, 3]);
});

test("a flood is bounded: the oldest are forgotten, the newest are not", async () => {
  const events = new SandboxEvents();
  const listening = valuesOf(events);
  for (let value = 0; value < 100_000; value += 1) events.emit(hit(value));
  events.end();
  const heard = await listening;
  expect(heard).toHaveLength(256);
  expect(heard.at(-1)).toBe(99_999);
  expect(events.kept).toHaveLength(256);
});
