import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import type { DoctorReport } from "@bulkhead/engine";
import { lacking, start } from "./cli-process.ts";

const SECONDS = 1000;
const missing = lacking(process.env);
const dir = mkdtempSync(join(tmpdir(), "bulkhead-kept-e2e-"));
chmodSync(dir, 0o755);
const env = { ...process.env, BULKHEAD_RUN: join(dir, "run"), NO_COLOR: "1", NODE_COMPILE_CACHE: join(dir, "cache") };
const cli = (...words: readonly string[]) => start(words, env).outcome;
const report = missing.length > 0 ? null : (JSON.parse((await cli("doctor", "--json")).stdout) as DoctorReport);
const levels = (report?.levels ?? []).filter(({ works }) => works).map(({ level }) => level as string);
/** Of this run alone: the state directory is shared. */
const unique = `e2e-${process.pid}`;

afterAll(async () => {
  if (missing.length === 0) {
    await cli("kept", "remove", unique);
    await cli("image", "remove", `${unique}-image`);
  }
  rmSync(dir, { recursive: true, force: true });
}, 120 * SECONDS);

const lack = missing.length > 0 ? `: NOT TESTED, this machine lacks ${missing.join(", ")}` : "";

const WRITE = [
  "echo made > /opt/made; chown 33:44 /opt/made; ln /opt/made /opt/again; mv /opt /moved",
  "rm /usr/bin/env; rm -rf /usr/share/doc; mkdir /usr/share/doc; echo only > /usr/share/doc/only",
].join("; ");
const READ = "cat /moved/again; stat -c '%u %g' /moved/made; test -e /usr/bin/env -o -e /opt || ls /usr/share/doc";

// Without what starts sandboxes there is nothing to keep; the title says what is missing.
describe.skipIf(levels.length === 0)(`kept layers${lack}`, { timeout: 480 * SECONDS }, () => {
  test("an image made of one is what was written over its image, at every level", async () => {
    expect(
      await cli("run", "--isolation", "container", "--keep", unique, "-u", "root", "--", "sh", "-c", WRITE),
    ).toMatchObject({ code: 0, stderr: "" });
    const listed = JSON.parse((await cli("kept", "list", "--json")).stdout) as { name: string; writer: string }[];
    expect(listed.find(({ name }) => name === unique)).toMatchObject({ writer: "host", reference: "base" });
    expect(await cli("commit", unique, `${unique}-image`)).toMatchObject({ code: 0, stderr: "" });
    for (const level of levels) {
      const read = await cli("run", "--isolation", level, "--image", `${unique}-image`, "--", "sh", "-c", READ);
      expect([level, read.code, read.stdout]).toEqual([level, 0, "made\n33 44\nonly\n"]);
    }
  });

  test("what is not kept is not found, and not removed", async () => {
    expect(await cli("commit", `${unique}-none`, "x")).toMatchObject({ code: 121, stdout: "" });
    expect(await cli("kept", "remove", `${unique}-none`)).toMatchObject({ code: 121, stdout: "" });
    expect(await cli("kept")).toMatchObject({ code: 121, stdout: "" });
  });
});
