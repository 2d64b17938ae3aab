import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { Box } from "../box.ts";
import { theme } from "../check.ts";
import { cgroupValue, freshDirectory, hostCommand } from "../host.ts";
import { probe } from "./boundary.ts";

const MIB = 1024 * 1024;
/** Version 1 calls a weight of 100 1,024 shares. */
const SHARES_PER_WEIGHT = 10.24;
/** On a disk on every host: where /tmp is memory there is nothing to limit. */
const ON_DISK = "/var/tmp";

const written = (count: number, size: string): readonly string[] => [
  ...["dd", "if=/dev/zero", "of=/home/user/out", `bs=${size}`, `count=${count}`],
  ...["oflag=direct", "status=none"],
];
/** Limits, and what takes that long at them. */
const FOUR_SECONDS = [
  [{ diskBytesPerSecond: MIB }, written(4, "1M")],
  [{ diskIops: 50 }, written(200, "4k")],
] as const;

async function writesSlowly(own: Box, argv: readonly string[]): Promise<void> {
  const started = performance.now();
  const wrote = await own.run(argv, { timeoutMs: 100_000 });
  const seconds = (performance.now() - started) / 1000;
  assert.equal(wrote.code, 0, wrote.stderr.toString());
  assert.ok(seconds > 2, `four seconds' worth was written in ${seconds.toFixed(1)} s`);
  await own.kill();
}

export const limitMeasureChecks = theme("limits", "host", (check) => {
  check("a weight asked for is the control group's", async ({ fresh }) => {
    for (const weight of [1, 37, 10_000]) {
      const own = await fresh({ cpuWeight: weight });
      const v2 = await cgroupValue(own.id, ["cpu.weight"]);
      if (v2 !== null) assert.equal(Number(v2), weight);
      else assert.equal(Number(await cgroupValue(own.id, ["cpu.shares"])), Math.round(weight * SHARES_PER_WEIGHT));
      await own.kill();
    }
  });

  check(
    "reading from a disk is held to its bytes a second",
    async ({ fresh, defer }) => {
      const place = await freshDirectory("conformance-disk-", ON_DISK);
      defer(() => rm(place, { recursive: true, force: true }));
      // Written through to the disk and dropped from the page cache: what is read comes from the device.
      const write = ["dd", "if=/dev/urandom", `of=${join(place, "data")}`, "bs=1M", "count=4"] as const;
      await hostCommand([...write, "oflag=direct", "status=none"]);
      const mounts = [{ source: place, target: "/data", readOnly: true }];
      const own = await fresh({ mounts, diskBytesPerSecond: MIB });
      const started = performance.now();
      const read = await own.run(["dd", "if=/data/data", "of=/dev/null", "bs=64k", "iflag=direct"]);
      const seconds = (performance.now() - started) / 1000;
      assert.equal(read.code, 0, read.stderr.toString());
      assert.ok(seconds > 2, `4 MiB came in ${seconds.toFixed(1)} s at 1 MiB a second`);
    },
    {
      timeoutMs: 120_000,
      notFor: (t) => (t.traits.level === "microvm" ? "its disks are its own; see the next" : null),
    },
  );

  check(
    "a guest's disks are held to their bytes and operations a second",
    async ({ fresh }) => {
      for (const [spec, argv] of FOUR_SECONDS) await writesSlowly(await fresh(spec), argv);
    },
    { timeoutMs: 240_000, notFor: (t) => (t.traits.level === "microvm" ? null : "the next is of what it has") },
  );

  check(
    "what is written to a layer on a disk is held to bytes and operations a second; where it cannot be, it is memory",
    async ({ fresh, open }) => {
      for (const [spec, argv] of FOUR_SECONDS) {
        const plan = await open.plan(spec);
        assert.ok(plan !== null);
        if (plan.layer.backing === "file") await writesSlowly(await fresh(spec), argv);
        else assert.match(plan.reasons.join("\n"), /memory.*in nobody's name/);
      }
    },
    {
      timeoutMs: 240_000,
      notFor: ({ traits }) => {
        if (traits.level === "microvm") return "its disks are its own; see the one before";
        return traits.level === "gvisor" ? "the Sentry caches what is written directly; its gofer writes later" : null;
      },
    },
  );

  check("nproc, free and df agree with what was asked for", async ({ fresh, target }) => {
    const asked = { cpus: 1, memoryBytes: 128 * MIB, diskBytes: 64 * MIB };
    const own = await fresh(asked);
    const code = `
import json,os
total=int(open('/proc/meminfo').readline().split()[1])*1024
s=os.statvfs('/')
print(json.dumps([len(os.sched_getaffinity(0)),total,s.f_blocks*s.f_frsize]))`;
    const [cpus, memory, disk] = await probe<[number, number, number]>(own, code);
    assert.ok(disk <= asked.diskBytes && disk >= 0.9 * asked.diskBytes, `df says ${disk}`);
    // A kernel of one's own has its own share: the Sentry 64 MiB, a guest's 40 MiB and a 64th.
    const most = asked.memoryBytes + (target.traits.ownKernel ? 64 * MIB : 0);
    assert.ok(memory >= asked.memoryBytes && memory <= most, `free says ${memory}`);
    // A share of all processors is not a number of them: a container sees the host's, and gVisor never less than two.
    const level = target.traits.level;
    const wanted = { microvm: 1, gvisor: Math.min(2, availableParallelism()), container: availableParallelism() };
    assert.ok(level !== null);
    assert.equal(cpus, wanted[level]);
  });
});
