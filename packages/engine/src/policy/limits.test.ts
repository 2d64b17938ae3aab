import { parseSpec } from "@bulkhead/contract";
import { describe, expect, test } from "vitest";
import { checkLimits } from "./limits.ts";

const host = (mode: "v1" | "v2", ...controllers: string[]): Parameters<typeof checkLimits>[2] => ({
  cgroup: { mode, controllers, swap: true },
  paths: { state: "/dev/shm", run: "/dev/shm" } as Parameters<typeof checkLimits>[2]["paths"],
});
const byGroup = { diskThrottle: "cgroup" } as const;
const byMonitor = { diskThrottle: "monitor" } as const;

describe("a limit that the host cannot hold is refused by name", () => {
  test.each([
    [{ cpuWeight: 50 }, host("v2", "memory"), /cpu-weight/, /no cpu controller/],
    [{ diskIops: 50 }, host("v2", "cpu"), /disk-iops/, /no io controller/],
    [{ diskBytesPerSecond: 4096 }, host("v1", "cpu", "io"), /disk-bps/, /no blkio controller/],
  ])("%j", async (input, machine, what, why) => {
    await expect(checkLimits(parseSpec(input), byGroup, machine, false)).rejects.toMatchObject({
      code: "LIMIT_UNSUPPORTED",
      message: expect.stringMatching(what),
      why: expect.stringMatching(why),
    });
  });

  test("what passes by the monitor, together with its limit", async () => {
    const input = { diskIops: 50, mounts: [{ source: "/srv", target: "/srv" }] };
    await expect(checkLimits(parseSpec(input), byMonitor, host("v1"), false)).rejects.toMatchObject({
      code: "LIMIT_UNSUPPORTED",
    });
  });
});

test("without such limits no controller is asked for", async () => {
  expect(await checkLimits(parseSpec({ pids: 5 }), byGroup, host("v2"), false)).toEqual([]);
  expect(await checkLimits(parseSpec({ diskIops: 5 }), byMonitor, host("v1"), false)).toEqual([]);
});
