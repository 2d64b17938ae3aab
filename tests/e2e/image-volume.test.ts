import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import type { DoctorReport } from "@bulkhead/engine";
import { lacking, start, written } from "./cli-process.ts";

const TIMEOUT_MS = 120_000;
const missing = lacking(process.env);
const dir = mkdtempSync(join(tmpdir(), "bulkhead-e2e-"));
chmodSync(dir, 0o755);
const env = { ...process.env, BULKHEAD_RUN: join(dir, "run"), NO_COLOR: "1", NODE_COMPILE_CACHE: join(dir, "cache") };
const volume = `e2e-${process.pid}`;
const cli = (...words: readonly string[]) => start(words, env).outcome;

async function workingLevels(): Promise<string[]> {
  if (missing.length > 0) return [];
  const report = JSON.parse((await cli("doctor", "--json")).stdout) as DoctorReport;
  return report.levels.filter((level) => level.works).map((level) => level.level);
}

const levels = await workingLevels();
afterAll(async () => {
  if (missing.length === 0) await cli("volume", "remove", volume);
  rmSync(dir, { recursive: true, force: true });
});

const lack = missing.length > 0 ? `: NOT TESTED, this machine lacks ${missing.join(", ")}` : "";

describe.each(levels)("what runs at %s", { timeout: TIMEOUT_MS }, (level) => {
  const inside = (words: readonly string[]) => cli("run", "--isolation", level, ...words);

  test("without a command the image's own runs, and an entrypoint gets the command", async () => {
    expect(await inside(["--entrypoint", "id"])).toMatchObject({
      code: 0,
      stdout: expect.stringContaining("uid=1000"),
    });
    expect(await inside(["--entrypoint", "printf", "--", "<%s>", "a b"])).toMatchObject({ code: 0, stdout: "<a b>" });
    const none = await inside(["--entrypoint", ""]);
    expect(none).toMatchObject({ code: 121, stdout: "" });
    expect(none.stderr).toMatch(/^bulkhead: image "base" does not say what to run\n/);
  });

  test("SIGTERM becomes the stop signal, and force when that does not help", async () => {
    const run = async (trap: string, ...options: string[]) => {
      const script = `trap '${trap}' USR1; trap '' TERM; echo ready; while :; do sleep 0.05; done`;
      const words = ["run", "--isolation", level, "--stop-signal", "USR1", ...options, "--", "sh", "-c", script];
      const { child, outcome } = start(words, env);
      await written(child, "ready");
      child.kill("SIGTERM");
      return await outcome;
    };
    expect(await run("echo stopped; exit 5")).toMatchObject({ code: 5, stdout: "ready\nstopped\n" });
    expect(await run("", "--stop-timeout", "300ms")).toMatchObject({ code: 128 + constants.signals.SIGKILL });
  });
});

// Sandboxes need root, the two binaries and an image: where one is missing nothing here can be true or false.
describe.skipIf(missing.length > 0)(`volumes${lack}`, { timeout: TIMEOUT_MS }, () => {
  test("one volume goes from level to level, and from the host and back", async () => {
    expect(await cli("volume", "create", volume, "--size", "16m", "--inodes", "256")).toMatchObject({
      code: 0,
      stdout: `${volume}: 16 MiB, 256 files\n`,
    });
    mkdirSync(join(dir, "tree/deep"), { recursive: true });
    writeFileSync(join(dir, "tree/deep/given"), "from the host\n");
    expect(await cli("volume", "copy", join(dir, "tree"), `${volume}:/tree`)).toMatchObject({
      code: 0,
      stdout: "1 file, 2 directories, 0 links, 14 B\n",
    });
    const over = await cli("run", "--volume", `${volume}:/proc/x`, "--", "true");
    expect(over).toMatchObject({ code: 121, stderr: expect.stringMatching(/\/proc belongs to the boundary/) });
    let expected = "from the host\n";
    for (const level of levels) {
      expected += `${level}\n`;
      const script = `echo ${level} >> /data/tree/deep/given && cat /data/tree/deep/given`;
      const words = ["run", "--isolation", level, "--volume", `${volume}:/data`, "--", "sh", "-c", script];
      expect(await cli(...words)).toMatchObject({ code: 0, stdout: expected });
    }
    const back = join(dir, "back");
    expect(await cli("volume", "copy", `${volume}:/tree/deep`, back)).toMatchObject({ code: 0 });
    expect(readFileSync(join(back, "given"), "utf8")).toBe(expected);
    const again = await cli("volume", "copy", `${volume}:/tree/deep`, back);
    expect(again).toMatchObject({ code: 121, stderr: expect.stringMatching(/is there already/) });
  });

  test("a volume in use says so, also when it is to be removed, and how it is used is listed", async () => {
    await cli("volume", "create", volume, "--size", "16m");
    const words = ["run", "--isolation", "container", "--volume", `${volume}:/data`, "--"];
    const { child, outcome } = start([...words, "sh", "-c", "echo ready; sleep 300"], env);
    await written(child, "ready");
    expect((await cli("volume", "list")).stdout).toMatch(new RegExp(`${volume} +16 MiB .* 1000:1000 +written to\n`));
    for (const other of [
      [...words, "true"],
      ["volume", "remove", volume],
    ]) {
      const refused = await cli(...other);
      expect(refused).toMatchObject({ code: 125, stdout: "" });
      expect(refused.stderr).toMatch(/in use/);
      expect(refused.stderr).toMatch(/next: end the sandbox/);
    }
    child.kill("SIGKILL");
    await outcome;
    // The keeper undoes what its engine has left a moment later.
    await expect.poll(async () => (await cli("volume", "remove", volume)).code, { timeout: 30_000 }).toBe(0);
  });

  const refused: ReadonlyArray<[string, readonly string[], RegExp]> = [
    ["a volume that is not there", ["run", "--volume", "nope:/data", "--", "true"], /no volume "nope"/],
    ["a name that leads out", ["volume", "create", "../x"], /volume name "\.\.\/x" is not valid/],
    ["a volume without a name", ["volume", "create"], /takes one name/],
    ["a volume too small for a journal", ["volume", "create", "tiny", "--size", "1m"], /size of 1048576 cannot be had/],
    ["a copy within volumes", ["volume", "copy", "a:/x", "b:/y"], /takes a path of the host's and one in a volume/],
    ["an option of another action", ["volume", "list", "--size", "1g"], /--size does not belong to volume list/],
    ["an unknown action", ["volume", "mak"], /unknown action "mak"/],
    ["a volume without a place", ["run", "--volume", "nope", "--", "true"], /--volume "nope" is not valid/],
  ];
  test.each(refused)("%s is refused in three lines", async (_, words, what) => {
    const outcome = await cli(...words);
    expect(outcome).toMatchObject({ code: 121, stdout: "" });
    expect(outcome.stderr).toMatch(what);
    expect(outcome.stderr).toMatch(/^bulkhead: [^\n]+\n {2}why: +[^\n]+\n {2}next: [^\n]+\n$/);
  });
});
