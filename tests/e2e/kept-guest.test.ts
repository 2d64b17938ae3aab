import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmodSync, copyFileSync, mkdtempSync, openSync, readdirSync, rmSync, writeSync, closeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, describe, expect, test } from "vitest";
import type { DoctorReport } from "@bulkhead/engine";
import { lacking, start } from "./cli-process.ts";

const SECONDS = 1000;
const MIB = 2 ** 20;
const BLOCK = 4096;
const missing = lacking(process.env);
const dir = mkdtempSync(join(tmpdir(), "bulkhead-kept-guest-"));
chmodSync(dir, 0o755);
const run = join(dir, "run");
const env = { ...process.env, BULKHEAD_RUN: run, NO_COLOR: "1", NODE_COMPILE_CACHE: join(dir, "cache") };
const state = process.env["BULKHEAD_STATE"] ?? "/var/lib/bulkhead";
const cli = (...words: readonly string[]) => start(words, env).outcome;
const report = missing.length > 0 ? null : (JSON.parse((await cli("doctor", "--json")).stdout) as DoctorReport);
const levels = (report?.levels ?? []).filter(({ works }) => works).map(({ level }) => level as string);
const guests = levels.includes("microvm");
/** Of this run alone: the state directory is shared. */
const unique = `e2e-guest-${process.pid}`;
const image = `${unique}-image`;
const file = join(state, "kept", unique, "layer.ext4");
const kept = (...command: readonly string[]) =>
  cli("run", "--isolation", "microvm", "--keep", unique, "--disk", "64m", "-u", "root", "--", ...command);

afterAll(async () => {
  if (guests) {
    await cli("kept", "remove", unique);
    await cli("image", "remove", image);
  }
  rmSync(dir, { recursive: true, force: true });
}, 120 * SECONDS);

const lack = missing.length > 0 ? missing.join(", ") : "virtual machines";

const WRITE = [
  "echo made > /opt/made; chown 33:44 /opt/made; chmod 4755 /opt/made; ln /opt/made /opt/again; mv /opt /moved",
  "touch -d '2001-02-03 04:05:06.789' /moved/made; ln -s ../made /moved/link; mkfifo -m 600 /moved/pipe",
  "rm /usr/bin/env; rm -rf /usr/share/doc; mkdir -m 750 /usr/share/doc; echo only > /usr/share/doc/only; echo new > /etc/issue",
  "truncate -s 32M /moved/hole; echo far > /moved/far; chown 3000000:70000 /moved/far",
  'python3 -c \'import os; os.setxattr("/moved/made", "user.note", b"noted")\'',
  'python3 -c \'import os; os.setxattr("/moved/far", "security.capability", bytes([1,0,0,2,0,4]) + bytes(14))\'',
].join(" && ");
const READ = [
  "cat /moved/again /usr/share/doc/only /etc/issue; stat -c '%u %g %a %h %y' /moved/made; readlink /moved/link",
  "stat -c '%F %a' /moved/pipe /usr/share/doc; stat -c '%s' /moved/hole; ls /usr/share/doc /opt /usr/bin/env 2>&1",
  'python3 -c \'import os; print(os.getxattr("/moved/made", "user.note"))\'',
].join("; ");
const SEEN = [
  ...["made", "only", "new", "33 44 4755 2 2001-02-03 04:05:06.789000000 +0000", "../made"],
  ...["fifo 600", "directory 750", `${32 * MIB}`],
];
const FILL =
  "mkdir -p /usr/deep; dd if=/dev/urandom of=/big bs=1M count=16 status=none; for i in $(seq 0 15); do echo > /copy$i; done";
const OWNED =
  "stat -c '%u %g' /moved/far; python3 -c 'import os; print(os.getxattr(\"/moved/far\", \"security.capability\")[:6].hex())'";

/** Puts `bytes` at `at` of the layer's file. */
function scribble(at: number, bytes: Buffer): void {
  const fd = openSync(file, "r+");
  writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
}

function debugfs(...requests: readonly string[]): void {
  for (const request of requests) {
    const { stdout, stderr } = spawnSync("debugfs", ["-w", "-R", request, file], { encoding: "utf8" });
    // It fails by saying more than its own name.
    expect([request, stdout, stderr.trim().split("\n").length]).toEqual([request, "", 1]);
  }
}

const DAMAGES: readonly (readonly [string, () => void, RegExp])[] = [
  ["is no file system", () => scribble(0, Buffer.alloc(64 * 1024)), /cannot be read|damaged/],
  ["is noise behind its first block", () => scribble(BLOCK, randomBytes(8 * MIB)), /cannot be read|damaged/],
  [
    "has a link in place of its root",
    () => debugfs("unlink data", "symlink data /proc/self"),
    /cannot be read|damaged/,
  ],
  ["has a directory in itself", () => debugfs("link data data/usr/loop"), /cannot be read|damaged|too deep/],
  ["has a name that would take something away", () => debugfs("link data/big data/.wh.usr"), /take something away/],
  [
    "has files that share their contents",
    () => debugfs(...Array.from({ length: 16 }, (_, index) => `copy_inode data/big data/copy${index}`)),
    /archive of more than/,
  ],
];

async function until(what: string, true_: () => boolean): Promise<void> {
  for (let tries = 0; tries < 1200; tries += 1) {
    if (true_()) return;
    await sleep(50);
  }
  throw new Error(`it never came: ${what}`);
}

const sandboxes = (): string[] =>
  readdirSync(run, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isDirectory() && entry.name === "control")
    .map((entry) => entry.parentPath);

// Only a host with virtual machines has guests that write layers; the title says so.
describe.skipIf(!guests)(
  `layers that a guest wrote${guests ? "" : `: NOT TESTED, no ${lack}`}`,
  { timeout: 900 * SECONDS },
  () => {
    test("an image made of one is what was written over its image, at every level", async () => {
      expect(await kept("sh", "-c", WRITE)).toMatchObject({ code: 0, stderr: "" });
      expect(await cli("commit", unique, image)).toMatchObject({ code: 0, stderr: "" });
      for (const level of levels) {
        const read = await cli("run", "--isolation", level, "--image", image, "-u", "root", "--", "sh", "-c", READ);
        const lines = read.stdout.trim().split("\n");
        expect([level, ...lines.slice(0, SEEN.length)]).toEqual([level, ...SEEN]);
        expect([level, lines.at(-1)]).toEqual([level, "b'noted'"]);
        expect(lines.slice(SEEN.length, -1).filter((line) => /No such file/.test(line))).toHaveLength(2);
      }
      const owned = await cli("run", "--isolation", "microvm", "--image", image, "-u", "root", "--", "sh", "-c", OWNED);
      expect(owned.stdout).toBe("3000000 70000\n010000020004\n");
      // It is as it was, and goes on.
      expect(await kept("cat", "/moved/made")).toMatchObject({ code: 0, stdout: "made\n" });
    });

    test("the host's kernel is never given one", async () => {
      const other = await cli("run", "--isolation", "container", "--keep", unique, "--", "true");
      expect(other).toMatchObject({ code: 121, stdout: "" });
      expect(other.stderr).toMatch(/guest's kernel wrote it/);
    });

    test("while a sandbox has it there is no commit", async () => {
      const holder = start(["run", "--isolation", "microvm", "--keep", unique, "--", "sleep", "1000"], env);
      await until("the sandbox", () => sandboxes().length > 0);
      expect(await cli("commit", unique, `${image}-busy`)).toMatchObject({ code: 125, stdout: "" });
      holder.child.kill("SIGTERM");
      await holder.outcome;
      expect((await cli("image", "list")).stdout).not.toContain(`${image}-busy`);
    });

    test("killed with -9 in the middle: nothing is left, and the next one does it", async () => {
      const { child, outcome } = start(["commit", unique, `${image}-killed`], env);
      await until("the guest that reads", () => sandboxes().length > 0);
      child.kill("SIGKILL");
      await outcome;
      await until("its end", () => sandboxes().length === 0);
      expect((await cli("image", "list")).stdout).not.toContain(`${image}-killed`);
      expect(await cli("commit", unique, image)).toMatchObject({ code: 0, stderr: "" });
      expect(readdirSync(join(state, "images")).filter((name) => name.includes(`new-${child.pid}-`))).toEqual([]);
    });

    test("one whose disk is damaged or hostile is refused by what is wrong, and nothing is made of it", async () => {
      expect(await kept("sh", "-c", FILL)).toMatchObject({
        code: 0,
      });
      const whole = join(dir, "whole.ext4");
      // Its journal would be written back over what is damaged here.
      expect(spawnSync("e2fsck", ["-f", "-y", file]).status).toBeLessThan(4);
      copyFileSync(file, whole);
      for (const [what, damage, why] of DAMAGES) {
        damage();
        const refused = await cli("commit", unique, `${image}-bad`);
        expect([what, refused.code, refused.stdout]).toEqual([what, 121, ""]);
        expect(`${what}: ${refused.stderr}`).toMatch(why);
        copyFileSync(whole, file);
      }
      expect(sandboxes()).toEqual([]);
      expect((await cli("image", "list")).stdout).not.toContain(`${image}-bad`);
      expect(await cli("commit", unique, image)).toMatchObject({ code: 0 });
    });
  },
);
