import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import type { Context } from "../check.ts";
import { eventually, fails, theme } from "../check.ts";
import { loopDevicesOf, statusField } from "../host.ts";
import { nothingLeft, runDirectory, victim } from "./crash.ts";

const MIB = 1024 * 1024;

/** A name of this check's own, whose layer goes with it. */
function keptName({ open, defer }: Context): string {
  const name = `conformance-${randomBytes(6).toString("hex")}`;
  defer(() => open.removeKept(name).catch(() => undefined));
  return name;
}

const fill = (path: string, mib: number): readonly string[] => [
  "dd",
  "if=/dev/zero",
  `of=${path}`,
  "bs=1M",
  `count=${mib}`,
  "status=none",
];

export const layerChecks = theme("layer", "host", (check) => {
  check(
    "a disk larger than the memory can be filled, and nothing is killed for memory",
    async ({ fresh }) => {
      const own = await fresh({ diskBytes: 448 * MIB, memoryBytes: 192 * MIB });
      const filled = await own.run(fill("/home/user/fill", 600));
      assert.notEqual(filled.code, 0, "600 MiB fitted into 448 MiB");
      assert.match(filled.stderr.toString(), /No space left/);
      const size = Number((await own.run(["stat", "-c", "%s", "/home/user/fill"])).stdout.toString());
      assert.ok(size > 384 * MIB && size <= 448 * MIB, `${size} bytes fitted into 448 MiB`);
      const hits = (await own.limitsReached()).map(({ limit }) => limit);
      assert.deepEqual(hits, ["disk"]);
      // The memory asked for is there all the same.
      const used = await own.run(["python3", "-c", "print(len(bytearray(64*2**20)))"]);
      assert.equal(used.stdout.toString(), `${64 * MIB}\n`, used.stderr.toString());
    },
    { timeoutMs: 240_000 },
  );

  check(
    "in memory, where that is asked for, a layer holds what was asked for and counts as memory",
    async ({ fresh, open }) => {
      const asked = { diskBytes: 32 * MIB, diskInodes: 70, diskBacking: "memory" } as const;
      const plan = await open.plan(asked);
      assert.equal(plan?.layer.backing, "memory");
      assert.equal(plan.limits.diskInodes, 70);
      const own = await fresh(asked);
      assert.deepEqual(await loopDevicesOf(own.id), []);
      assert.match((await own.run(fill("/home/user/fill", 64))).stderr.toString(), /No space left/);
    },
    { notFor: (t) => (t.traits.level === "microvm" ? "its layer is always a file" : null) },
  );

  check(
    "a layer that is kept is gone on with, owners and modes too, and without its name nothing is there",
    async (context) => {
      const { fresh } = context;
      const keep = keptName(context);
      const first = await fresh({ keep, diskBytes: 64 * MIB });
      const write =
        "echo one > /home/user/note; chown 1000:33 /home/user/note; chmod 4750 /home/user/note; mkdir /opt/made; rm -rf /usr/share/doc; ln -s note /home/user/link";
      const wrote = await first.run(["sh", "-c", write], { user: "root" });
      assert.equal(wrote.code, 0, wrote.stderr.toString());
      await first.kill();
      const second = await fresh({ keep });
      const read =
        "cat /home/user/link; stat -c '%u %g %a' /home/user/note; test -d /opt/made && test ! -e /usr/share/doc && echo all";
      assert.equal((await second.run(["sh", "-c", read])).stdout.toString(), "one\n1000 33 4750\nall\n");
      const sizes = await second.run(["sh", "-c", "df -B1 --output=size / | tail -1"]);
      assert.ok(Number(sizes.stdout.toString()) <= 64 * MIB, "it has the size it was made with");
      // A program that writes when it is asked to end: the end is a proper one.
      const late = await second.start([
        "sh",
        "-c",
        "trap 'echo late > /home/user/late; exit' TERM; echo up; sleep 1000 & wait",
      ]);
      late.exit.catch(() => undefined);
      await new Promise((resolve) => late.stdout.once("data", resolve));
      late.stdout.resume();
      await second.kill();
      const third = await fresh({ keep });
      assert.equal((await third.run(["cat", "/home/user/late"])).stdout.toString(), "late\n");
      await third.kill();
      const other = await fresh();
      assert.notEqual((await other.run(["ls", "/home/user/note"])).code, 0);
    },
    { timeoutMs: 120_000 },
  );

  check(
    "one sandbox at a time has a kept layer; another size or image of it is refused by name",
    async (context) => {
      const { fresh, open } = context;
      const keep = keptName(context);
      const own = await fresh({ keep, diskBytes: 64 * MIB });
      const busy = await fails("KEPT_IN_USE", () => open.create({ keep }));
      assert.match(busy.message, new RegExp(keep));
      await fails("KEPT_IN_USE", () => open.removeKept(keep));
      assert.equal((await own.run(["echo", "usable"])).stdout.toString(), "usable\n");
      await own.kill();
      await fails("KEPT_MISMATCH", () => open.create({ keep, diskBytes: 32 * MIB }));
      await fails("SPEC_INVALID", () => open.create({ keep: "../etc" }));
      await fails("LIMIT_UNSUPPORTED", () => open.create({ keep: `${keep}-small`, diskBytes: 2 * MIB }));
      if (context.target.traits.snapshot) {
        const again = await fresh({ keep });
        await fails("NOT_SUPPORTED", () => again.fork(1));
      }
    },
    { timeoutMs: 120_000 },
  );

  check(
    "engine and keeper killed with -9: a kept layer is whole, free again, and has what was synced",
    async (context) => {
      const run = await runDirectory(context);
      const keep = keptName(context);
      const found = await victim(context, run, 1, `keep=${keep}`);
      process.kill(found.keeperPid, "SIGKILL");
      process.kill(found.enginePid, "SIGKILL");
      await sleep(500);
      {
        await using next = await context.target.open({ run });
        const box = await eventually(
          "the layer is free",
          () =>
            next.create({ keep }).catch((error: Error & { code?: string }) => {
              assert.equal(error.code, "KEPT_IN_USE", String(error));
              return null;
            }),
          30_000,
        );
        assert.equal((await box.run(["cat", "/home/user/synced"])).stdout.toString(), "synced\n");
        await box.kill();
      }
      await nothingLeft(found, run);
    },
    { timeoutMs: 180_000 },
  );

  check(
    "engine and keeper killed with -9: no loop device and no file is left",
    async (context) => {
      const run = await runDirectory(context);
      const found = await victim(context, run, 2);
      const devices = (await Promise.all(found.ids.map(loopDevicesOf))).flat();
      assert.equal(devices.length, 2, "each has a loop device of its own");
      process.kill(found.keeperPid, "SIGKILL");
      process.kill(found.enginePid, "SIGKILL");
      for (const pid of [found.keeperPid, found.enginePid]) {
        await eventually("its end", async () => /^[XZ]/.test(await statusField(pid, "State").catch(() => "X")));
      }
      {
        await using next = await context.target.open({ run });
        await (await next.create()).kill();
      }
      for (const { path, file } of devices) {
        const gone = async (): Promise<boolean> => (await readFile(path, "utf8").catch(() => "")).trim() !== file;
        await eventually(`${path} is free of ${file}`, gone, 20_000);
      }
    },
    { timeoutMs: 120_000, notFor: (t) => (t.traits.level === "microvm" ? "the monitor has the file itself" : null) },
  );
});
