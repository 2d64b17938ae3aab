import { execFileSync, spawnSync } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { CLONE_FDS, launchArgv } from "./launch.ts";
import { cloneCommands } from "./qemu.ts";

async function files(): Promise<{ state: string; memory: string; control: string }> {
  const dir = await mkdtemp(join(tmpdir(), "launch it's "));
  onTestFinished(() => rm(dir, { recursive: true }));
  await writeFile(join(dir, "state"), "STATE");
  await writeFile(join(dir, "memory"), "MEMORY");
  execFileSync("mkfifo", [join(dir, "qmp.in"), join(dir, "qmp.out")]);
  return { state: join(dir, "state"), memory: join(dir, "memory"), control: join(dir, "qmp") };
}

test("everything is where QEMU looks for it", async () => {
  const at = await files();
  const lines = cloneCommands(CLONE_FDS.state).trimEnd().split("\n").length;
  const script = `cat <&3; cat <&4; head -n ${lines} "$1.in"; echo last words >&7`;
  const [file = "", ...args] = launchArgv(at, ["/bin/sh", "-c", script, "sh", at.control]);
  const ran = spawnSync(file, args, { encoding: "utf8", timeout: 10_000 });
  expect(ran.stdout).toBe(`STATEMEMORY${cloneCommands(CLONE_FDS.state)}`);
  expect(ran.stderr).toBe("last words\n");
});

test("a file that is missing ends the start before the runtime", async () => {
  const at = await files();
  const [file = "", ...args] = launchArgv({ ...at, state: `${at.state}.none` }, ["/bin/echo", "started"]);
  const ran = spawnSync(file, args, { encoding: "utf8", timeout: 10_000 });
  expect(ran.status).not.toBe(0);
  expect(ran.stdout).toBe("");
});
