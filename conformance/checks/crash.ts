import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Context } from "../check.ts";
import { eventually, theme, within } from "../check.ts";
import { exists, filesBelow, freshDirectory, statusField, traces } from "../host.ts";

export interface Victim {
  /** A host directory that every sandbox has as a mount and writes to. */
  readonly shared: string | null;
  readonly enginePid: number;
  readonly keeperPid: number;
  readonly ids: readonly string[];
}

const VICTIM = join(import.meta.dirname, "..", "victim.ts");

/** @param then what the victim does besides, see there; a sandbox that is saved can have no mounts */
export async function victim(context: Context, run: string, count: number, then = ""): Promise<Victim> {
  const shared = then.startsWith("/") || then.startsWith("volume=") ? null : await sharedDirectory(context);
  const told = [run, String(count), shared ?? "-", then];
  const child: ChildProcess = spawn(process.execPath, [VICTIM, context.target.name, ...told], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  context.defer(() => child.kill("SIGKILL"));
  assert.ok(child.stdout);
  const said = once(child.stdout, "data") as Promise<[Buffer]>;
  const died = once(child, "exit").then(([code]) => assert.fail(`the victim ended with ${code} before it was killed`));
  died.catch(() => undefined);
  const [line] = await within("the victim's sandboxes", 60_000, Promise.race([said, died]));
  return { ...(JSON.parse(line.toString()) as Omit<Victim, "shared">), shared };
}

export async function runDirectory(context: Context): Promise<string> {
  const run = await freshDirectory("conformance-run-");
  context.defer(() => rm(run, { recursive: true, force: true }));
  return run;
}

async function sharedDirectory(context: Context): Promise<string> {
  const shared = await freshDirectory("conformance-held-");
  context.defer(() => rm(shared, { recursive: true, force: true }));
  await chmod(shared, 0o777);
  return shared;
}

/** Sandboxes must have been there, or finding nothing afterwards proves nothing. */
export async function standing(found: Victim, run: string): Promise<void> {
  const seen = await traces([...needles(found), run], [found.enginePid]);
  for (const id of found.ids)
    assert.ok(
      seen.some((line) => line.includes(id)),
      `nothing of sandbox ${id} was there before the kill`,
    );
  assert.ok(
    seen.some((l) => l.startsWith("mount in") && l.includes(found.shared ?? run)),
    "no mount of the shared directory was seen before the kill",
  );
  assert.ok(
    seen.some((l) => l.startsWith("control group")),
    "no control group was seen before the kill",
  );
}

function needles({ ids, shared }: Victim): readonly string[] {
  return shared === null ? ids : [...ids, shared];
}

export async function nothingLeft(found: Victim, run: string): Promise<void> {
  let last: readonly string[] = [];
  await eventually(
    "nothing of the sandboxes is left",
    async () => {
      const left = [...(await traces([...needles(found), run]))];
      for (const path of await filesBelow(run))
        if (found.ids.some((id) => path.includes(id))) left.push(`file ${path}`);
      last = left;
      return left.length === 0;
    },
    20_000,
  ).catch((error: unknown) => assert.fail(`${(error as Error).message}\n${last.slice(0, 20).join("\n")}`));
}

/** Reaped or not. */
export async function ended(pid: number): Promise<boolean> {
  return /^[XZ]/.test(await statusField(pid, "State").catch(() => "X"));
}

/** The next engine starts in the same run directory, works, and finds no id range and no directory taken. */
export async function nextEngineWorks(context: Context, run: string): Promise<void> {
  await using next = await context.target.open({ run });
  const box = await next.create();
  assert.equal((await box.run(["echo", "again"])).stdout.toString(), "again\n");
  await box.kill();
}

export const crashChecks = theme("crash", "host", (check) => {
  check(
    "engine killed with -9: its sandboxes vanish, nothing is left",
    async (context) => {
      const run = await runDirectory(context);
      const found = await victim(context, run, 3);
      await standing(found, run);
      process.kill(found.enginePid, "SIGKILL");
      await nothingLeft(found, run);
      await nextEngineWorks(context, run);
    },
    { timeoutMs: 120_000 },
  );

  check(
    "keeper killed with -9: the engine says so, the next engine sweeps",
    async (context) => {
      const run = await runDirectory(context);
      const found = await victim(context, run, 2);
      await standing(found, run);
      process.kill(found.keeperPid, "SIGKILL");
      await new Promise((resolve) => setTimeout(resolve, 1_000));
      process.kill(found.enginePid, "SIGKILL");
      await new Promise((resolve) => setTimeout(resolve, 500));
      await nextEngineWorks(context, run);
      await nothingLeft(found, run);
    },
    { timeoutMs: 120_000 },
  );

  check(
    "engine and keeper killed with -9 together: the next engine sweeps",
    async (context) => {
      const run = await runDirectory(context);
      const found = await victim(context, run, 3);
      await standing(found, run);
      process.kill(found.keeperPid, "SIGKILL");
      process.kill(found.enginePid, "SIGKILL");
      await new Promise((resolve) => setTimeout(resolve, 500));
      await nextEngineWorks(context, run);
      await nothingLeft(found, run);
    },
    { timeoutMs: 120_000 },
  );

  check(
    "engine and keeper killed with -9 while sandboxes are paused: the next engine sweeps",
    async (context) => {
      const run = await runDirectory(context);
      const found = await victim(context, run, 2, "paused");
      await standing(found, run);
      process.kill(found.keeperPid, "SIGKILL");
      process.kill(found.enginePid, "SIGKILL");
      // The next one takes a directory whose lock is still held for a living engine's.
      for (const pid of [found.keeperPid, found.enginePid]) await eventually("its end", () => ended(pid));
      await nextEngineWorks(context, run);
      await nothingLeft(found, run);
    },
    { timeoutMs: 120_000 },
  );

  check(
    "engine stopped by SIGTERM leaves nothing",
    async (context) => {
      const run = await runDirectory(context);
      const found = await victim(context, run, 2);
      process.kill(found.enginePid, "SIGTERM");
      await nothingLeft(found, run);
    },
    { timeoutMs: 120_000 },
  );

  check(
    "killed while sandboxes are being made",
    async (context) => {
      const [run, shared] = [await runDirectory(context), await sharedDirectory(context)];
      const child = spawn(process.execPath, [VICTIM, context.target.name, run, "8", shared], { stdio: "ignore" });
      context.defer(() => child.kill("SIGKILL"));
      await once(child, "spawn");
      await eventually(
        "something of a sandbox",
        async () => (await traces([run], [child.pid ?? 0])).length > 1,
        30_000,
      );
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
      await nothingLeft({ enginePid: 0, keeperPid: 0, ids: [], shared }, run);
      await nextEngineWorks(context, run);
    },
    { timeoutMs: 120_000 },
  );

  check("the sandbox's process 1 killed from outside: typed end, nothing left", async (context) => {
    const own = await context.fresh();
    const { processesInCgroup } = await import("../host.ts");
    const pending = own.run(["sleep", "60"]).then(
      () => "ended",
      (error: { code?: string }) => error.code,
    );
    for (const { pid } of await processesInCgroup(own.id)) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // Gone already with process 1.
      }
    }
    const code = await within("the error", 5_000, pending);
    assert.ok(code === "SANDBOX_GONE" || code === "CHANNEL_CLOSED", String(code));
    await within("gone", 10_000, own.gone);
    await own.kill();
    await eventually("nothing is left", async () => (await traces([own.id])).length === 0);
  });

  check("kill returns when everything is gone", async (context) => {
    const own = await context.fresh();
    await own.start(["sh", "-c", "sleep 1000 & setsid sleep 1001 & wait"]);
    assert.ok((await traces([own.id])).length > 0);
    await own.kill();
    const left = await traces([own.id]);
    assert.deepEqual(left, []);
    const { outside } = context.open;
    if (outside !== null) assert.equal(await exists(join(outside.runDirectory, own.id)), false);
  });
});
