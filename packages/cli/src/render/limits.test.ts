import type { LimitHit } from "@bulkhead/engine";
import { expect, test } from "vitest";
import { renderLimits } from "./limits.ts";

const hit = (over: Partial<LimitHit>): LimitHit => ({
  kind: "limit-hit",
  limit: "memory",
  value: 2 ** 28,
  atMs: 0,
  killed: null,
  toldBy: "host",
  ...over,
});

test("names the limit, its value, what was killed and the option; repeats are counted", () => {
  const killed = { what: "process", pid: 7, hostPid: null, command: "py\u001b[31mthon" } as const;
  const lines = renderLimits([hit({ killed }), hit({ limit: "pids", value: 64 }), hit({ killed })]);
  expect(lines).toEqual([
    "the memory limit of 256 MiB was reached: py\ufffd[31mthon (pid 7) was killed; --memory sets it (2 times)",
    "the process limit of 64 was reached: a program was refused another process; --pids sets it",
  ]);
});

test("a volume that is full is named", () => {
  const [line] = renderLimits([hit({ limit: "disk", value: 2 ** 24, volume: "cache" })]);
  expect(line).toBe("volume cache is full: 16 MiB");
});

test("says when it was the whole sandbox, and when nobody is named", () => {
  const [whole] = renderLimits([hit({ killed: { what: "sandbox" } })]);
  expect(whole).toContain("the whole sandbox was ended");
  const [unnamed] = renderLimits([hit({ killed: { what: "process", pid: null, hostPid: 9, command: null } })]);
  expect(unnamed).toContain("a program was killed");
});
