import assert from "node:assert/strict";
import { open, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { MANIFEST, manifestText, parseManifest } from "../../packages/engine/src/snapshot/manifest.ts";
import type { Box, Running } from "../box.ts";
import type { Context } from "../check.ts";
import { eventually, fails, theme, within } from "../check.ts";
import { cgroupCpuSeconds, exists, freshDirectory, traces } from "../host.ts";
import type { Target } from "../target.ts";
import { nothingLeft, runDirectory, victim } from "./crash.ts";

const MIB = 1024 * 1024;
const SMALL = { memoryBytes: 128 * MIB };
/** Long enough for a busy loop to use, or a counter to say, a multiple of what a still one may. */
const STILL_MS = 1_000;
const STILL_CPU_SECONDS = 0.05;
/** Six guests share the processors with everything else. */
const OUTPUT_WITHIN_MS = 120_000;

const unsaved = (target: Target): string | null =>
  target.traits.snapshot ? null : "sandboxes of this driver cannot be saved, which a check of its own shows";
const saved = (target: Target): string | null =>
  target.traits.snapshot ? "sandboxes of this driver can be saved" : null;

/** Counts aloud, and says with each number what it alone has in its memory. */
const WITNESS = `t=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '); i=0
while :; do i=$((i+1)); echo "$i $t"; sleep 0.2; done`;

/** The lines of a process's output as they come. */
class Lines {
  readonly all: string[] = [];

  constructor(running: Running) {
    let rest = "";
    running.exit.catch(() => undefined);
    running.stdout.on("error", () => undefined);
    running.stdout.on("data", (chunk: Buffer) => {
      const parts = (rest + chunk.toString()).split("\n");
      rest = parts.pop() ?? "";
      this.all.push(...parts);
    });
  }

  /** The numbers a witness has said, and the one thing that it knows. */
  witnessed(): { readonly numbers: readonly number[]; readonly token: string } {
    const words = this.all.map((line) => line.split(" "));
    const tokens = new Set(words.map(([, token]) => token));
    assert.equal(tokens.size, 1, "its memory has changed");
    return { numbers: words.map(([number]) => Number(number)), token: [...tokens][0] ?? "" };
  }

  async past(count: number): Promise<number> {
    return await eventually("output", () => (this.all.length > count ? this.all.length : null), OUTPUT_WITHIN_MS);
  }
}

/** Random numbers, ids and the time, a line each. */
const IDENTITY = `head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid /etc/machine-id; hostname; date +%s.%N`;

async function identityOf(box: Box): Promise<readonly string[]> {
  const before = Date.now() / 1000;
  const lines = (await box.run(["sh", "-c", IDENTITY])).stdout.toString().trim().split("\n");
  const time = Number(lines.pop());
  assert.ok(time > before - 1 && time < Date.now() / 1000 + 1, `the clock is off by ${time - before} s`);
  assert.equal(lines.length, 5);
  return lines;
}

/** But for the host name, which comes last. */
function allDiffer(rows: readonly (readonly string[])[]): void {
  rows[0]?.slice(0, -1).forEach((_, column) => {
    const values = rows.map((row) => row[column]);
    assert.equal(new Set(values).size, rows.length, `line ${column + 1} is the same in two: ${values.join(" ")}`);
  });
}

async function directory(context: Context): Promise<string> {
  const dir = await freshDirectory("conformance-snapshots-");
  context.defer(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

async function flip(path: string, at: number): Promise<void> {
  await using file = await open(path, "r+");
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, at);
  byte[0] = (byte[0] ?? 0) ^ 1;
  await file.write(byte, 0, 1, at);
}

/** Each damage to a snapshot is refused, and put right again. */
async function refusesDamage(context: Context, path: string): Promise<void> {
  const refused = async (): Promise<unknown> =>
    await fails("SNAPSHOT_INVALID", () => context.open.restore(path).then((box) => box.kill()));
  for (const [name, at] of [
    ["memory", 5 * MIB + 17],
    ["disk", 3 * MIB],
    ["state", 1000],
  ] as const) {
    await flip(join(path, name), at);
    await refused();
    await flip(join(path, name), at);
  }
  const state = await readFile(join(path, "state"));
  await truncate(join(path, "state"), state.length - 1);
  await refused();
  await writeFile(join(path, "state"), state);
  const manifest = join(path, MANIFEST);
  const text = await readFile(manifest, "utf8");
  await writeFile(manifest, text.replace('"hostname": "', '"hostname": "x'));
  await refused();
  await writeFile(manifest, text.slice(0, text.length / 2));
  await refused();
  await writeFile(manifest, text);
}

/** As if another kernel, QEMU or agent were installed. */
async function refusesOthers(context: Context, path: string): Promise<void> {
  const manifest = join(path, MANIFEST);
  const text = await readFile(manifest, "utf8");
  const whole = parseManifest(text, path);
  for (const name of ["qemu", "kernel", "memoryMib"]) {
    assert.ok(name in whole.binding);
    await writeFile(manifest, manifestText({ ...whole, binding: { ...whole.binding, [name]: "another" } }));
    const error = await fails("SNAPSHOT_MISMATCH", () => context.open.restore(path).then((box) => box.kill()));
    assert.match(error.message, new RegExp(name));
  }
  await writeFile(manifest, text);
  const accelerator = (await context.open.plan())?.boundary.monitor?.accelerator;
  if (accelerator === "tcg") await fails("LEVEL_UNAVAILABLE", () => context.open.restore(path, { hardware: true }));
}

export const stateChecks = theme("state", "host", (check) => {
  check("the plan says what can be done to a sandbox as a whole", async ({ open: engine, target }) => {
    assert.deepEqual(await engine.can(), { pause: true, snapshot: target.traits.snapshot });
  });

  check("paused, it uses no processor and says nothing; resumed, it goes on where it stood", async ({ fresh }) => {
    const own = await fresh();
    const count = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";
    const lines = new Lines(await own.start(["sh", "-c", count]));
    const busy = await own.start(["sh", "-c", "while :; do :; done"]);
    const timer = own.run(["sleep", "0.5"]);
    await lines.past(3);
    await own.pause();
    // What was on its way arrives.
    await sleep(STILL_MS / 5);
    const [said, used] = [lines.all.length, await cgroupCpuSeconds(own.id)];
    await sleep(STILL_MS);
    assert.equal(lines.all.length, said);
    const more = (await cgroupCpuSeconds(own.id)) - used;
    assert.ok(more < STILL_CPU_SECONDS, `${more} s of processor time while paused`);
    await own.resume();
    await lines.past(said);
    assert.deepEqual(
      lines.all.slice(0, said + 1).map(Number),
      [...Array(said + 1).keys()].map((i) => i + 1),
    );
    assert.equal((await within("a timer", OUTPUT_WITHIN_MS, timer)).code, 0);
    await busy.signal("SIGKILL");
    assert.equal((await own.run(["echo", "on"])).stdout.toString(), "on\n");
  });

  check("calls to a paused sandbox fail by name, those under way wait; pausing twice is pausing", async ({ fresh }) => {
    const own = await fresh();
    await own.files.write("/tmp/here", "x");
    const underWay = await own.start(["cat"], { stdin: true });
    const lines = new Lines(underWay);
    await Promise.all([own.pause(), own.pause()]);
    for (const call of [
      () => own.run(["true"]),
      () => own.files.read("/tmp/here"),
      () => own.ping(),
      () => own.processes(),
      () => own.dialTcp(1),
    ])
      await fails("SANDBOX_PAUSED", call);
    underWay.stdin.write("late\n");
    await sleep(STILL_MS);
    assert.deepEqual(lines.all, []);
    await own.resume();
    await own.resume();
    await lines.past(0);
    assert.deepEqual(lines.all, ["late"]);
    assert.equal((await own.files.read("/tmp/here")).toString(), "x");
  });

  check("killed while paused, nothing is left", async ({ fresh }) => {
    const own = await fresh();
    await own.start(["sh", "-c", "sleep 1000 & setsid sleep 1001 & wait"]);
    await own.pause();
    assert.ok((await traces([own.id])).length > 0);
    await within("its end", 60_000, own.kill());
    assert.deepEqual(await traces([own.id]), []);
    await fails("SANDBOX_GONE", () => own.pause());
  });

  check(
    "a level that cannot save says so, and makes nothing",
    async (context) => {
      const dir = await directory(context);
      const { box } = context;
      for (const call of [() => box.snapshot(join(dir, "one")), () => box.fork(1)]) {
        const error = await fails("NOT_SUPPORTED", call);
        assert.match(error.next, /microvm/);
      }
      assert.deepEqual(await readdir(dir), []);
      await box.ping();
    },
    { notFor: saved },
  );

  check(
    "saved, killed and restored: files, memory and processes go on, as another machine; what is damaged or bound elsewhere is refused",
    async (context) => {
      const path = join(await directory(context), "one");
      const own = await context.fresh(SMALL);
      const witness = await own.start(["sh", "-c", WITNESS]);
      const lines = new Lines(witness);
      await lines.past(2);
      await own.run(["sh", "-c", "head -c 5000000 /dev/urandom > big; sync; sha256sum big > sum; echo kept > small"]);
      const before = await identityOf(own);
      const said = lines.all.length;
      await own.snapshot(path);
      await fails("SNAPSHOT_EXISTS", () => own.snapshot(path));
      await lines.past(lines.all.length);
      await own.kill();
      await refusesDamage(context, path);
      await refusesOthers(context, path);

      const restored = await context.open.restore(path, { hostname: "restored" });
      context.defer(() => restored.kill());
      const { token } = lines.witnessed();
      const after = new Lines(await restored.connect(witness.pid));
      await after.past(1);
      assert.equal(after.witnessed().token, token);
      const [first = 0] = after.witnessed().numbers;
      assert.ok(first > said, `it counts from ${first}, and had said ${said}`);
      const files = await restored.run(["sh", "-c", "sha256sum -c sum && cat small"]);
      assert.equal(files.stdout.toString(), "big: OK\nkept\n");
      const identity = await identityOf(restored);
      allDiffer([before, identity]);
      assert.equal(identity.at(-1), "restored");
      // From what was restored, once more.
      const [again] = await restored.fork(1);
      assert.ok(again !== undefined);
      context.defer(() => again.kill());
      const once = new Lines(await again.connect(witness.pid));
      await once.past(1);
      assert.equal(once.witnessed().token, token);
      await context.open.removeSnapshot(path);
      assert.deepEqual(await readdir(join(path, "..")), []);
      await fails("SNAPSHOT_NOT_FOUND", () => context.open.restore(path));
    },
    { notFor: unsaved, timeoutMs: 300_000 },
  );

  check(
    "5 forks at once differ in random numbers, ids and names, know the time and go on; so does the original",
    async ({ fresh, defer }) => {
      const own = await fresh({ ...SMALL, hostname: "original" });
      const witness = await own.start(["sh", "-c", WITNESS]);
      const lines = new Lines(witness);
      await lines.past(2);
      const forks = await own.fork(5, (index) => `fork-${index}`);
      for (const fork of forks) defer(() => fork.kill());
      await own.run(["sh", "-c", "echo original > whose"]);
      const rows = await Promise.all([own, ...forks].map(identityOf));
      allDiffer(rows);
      assert.deepEqual(
        rows.map((row) => row.at(-1)),
        ["original", "fork-0", "fork-1", "fork-2", "fork-3", "fork-4"],
      );
      for (const fork of forks) await fails("FILE_NOT_FOUND", () => fork.files.read("whose"));
      const counting = await Promise.all(forks.map(async (fork) => new Lines(await fork.connect(witness.pid))));
      await Promise.all(counting.map((one) => one.past(1)));
      await lines.past(lines.all.length + 1);
      const { numbers, token } = lines.witnessed();
      for (const one of counting) assert.equal(one.witnessed().token, token);
      assert.deepEqual(
        numbers,
        numbers.map((_, i) => i + 1),
        "the original lost count",
      );
    },
    { notFor: unsaved, timeoutMs: 300_000 },
  );

  check(
    "engine killed with -9 while it saves: nothing that could be restored, and nothing behind",
    async (context) => {
      const [run, dir] = [await runDirectory(context), await directory(context)];
      const found = await victim(context, run, 1, dir);
      const drafts = async (): Promise<readonly string[]> =>
        (await readdir(dir)).filter((name) => name.startsWith(".bulkhead-snapshot-"));
      await eventually("a snapshot being made", async () => (await drafts()).length > 0, OUTPUT_WITHIN_MS);
      process.kill(found.enginePid, "SIGKILL");
      await nothingLeft(found, run);
      for (const name of await drafts()) {
        // A whole one that has not got its name yet; it goes all the same.
        if (await exists(join(dir, name, MANIFEST))) continue;
        await fails(["SNAPSHOT_INVALID", "SNAPSHOT_NOT_FOUND"], () => context.open.restore(join(dir, name)));
      }
      await fails("SNAPSHOT_NOT_FOUND", () => context.open.restore(join(dir, "none")));
      assert.deepEqual(await drafts(), []);
    },
    { notFor: unsaved, timeoutMs: 240_000 },
  );
});
