import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import type { DoctorReport, ListedSandbox } from "@bulkhead/engine";
import { atTerminal, CLOSED, lacking, leftovers, type Outcome, start, type Started, written } from "./cli-process.ts";

const TIMEOUT_MS = 180_000;
const missing = lacking(process.env);
const dir = mkdtempSync(join(tmpdir(), "bulkhead-running-"));
chmodSync(dir, 0o755);
const run = join(dir, "run");
const env = { ...process.env, BULKHEAD_RUN: run, NO_COLOR: "1", NODE_COMPILE_CACHE: join(dir, "cache") };
const cli = (...words: readonly string[]) => start(words, env).outcome;
const fed = (input: string | Buffer, ...words: readonly string[]) => start(words, env, input).outcome;
const at = (name: string): string => join(dir, name);

async function workingLevels(): Promise<string[]> {
  if (missing.length > 0) return [];
  const report = JSON.parse((await cli("doctor", "--json")).stdout) as DoctorReport;
  return report.levels.filter((level) => level.works).map((level) => level.level);
}

const levels = await workingLevels();
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const others: Started[] = [];
afterEach(async () => {
  for (const { child, outcome } of others.splice(0)) {
    child.kill("SIGKILL");
    await outcome;
  }
  await expect.poll(() => leftovers(run, []), { timeout: TIMEOUT_MS }).toEqual([]);
}, TIMEOUT_MS);

/** Another terminal: a sandbox that stays until it is told to end. */
async function running(level: string, ...options: readonly string[]): Promise<Started> {
  const script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
  const started = start(["run", "--isolation", level, ...options, "--", "sh", "-c", script], env);
  others.push(started);
  await written(started.child, "ready");
  return started;
}

const listed = async (): Promise<ListedSandbox[]> =>
  JSON.parse((await cli("list", "--json")).stdout) as ListedSandbox[];
const failed = (outcome: Outcome, code: number, words: RegExp): void => {
  expect(outcome).toMatchObject({ code, stdout: "" });
  expect(outcome.stderr).toMatch(words);
};

describe.each(levels)("what runs at %s, from another process", { timeout: TIMEOUT_MS }, (level) => {
  test("is listed, copied into and out of, run commands in, and stopped", async () => {
    const { outcome } = await running(level, "--name", "web");
    const [one] = await listed();
    expect(one).toMatchObject({ name: "web", level, image: "base", paused: false });
    expect((await cli("ps")).stdout).toMatch(
      /^ID +NAME +LEVEL +IMAGE +STATE +AGE\ns[0-9a-f]{16} +web +\w+ +base +running/,
    );

    mkdirSync(at("tree/deep"), { recursive: true });
    writeFileSync(at("tree/deep/given"), "from the host\n");
    writeFileSync(at("tree/tool"), "#!/bin/sh\necho tool\n", { mode: 0o755 });
    const summary = "2 files, 2 directories, 0 links, 34 B\n";
    const inside = (...argv: readonly string[]) => cli("exec", "web", "--", ...argv);
    // To a path that is not there, into a directory that is, and what is in it.
    expect(await cli("cp", at("tree"), "web:/tmp/new")).toEqual({ code: 0, signal: null, stdout: summary, stderr: "" });
    expect(await cli("cp", at("tree"), `${one!.id}:/tmp/new/`)).toMatchObject({ code: 0, stdout: summary });
    expect(await cli("cp", `${at("tree")}/.`, `${one!.id.slice(0, 8)}:`)).toMatchObject({ code: 0, stdout: summary });
    const files = ["/tmp/new/deep/given", "/tmp/new/tree/deep/given", "/home/user/deep/given"];
    expect((await inside("cat", ...files)).stdout).toBe("from the host\n".repeat(3));
    expect((await inside("/tmp/new/tool")).stdout).toBe("tool\n");
    expect((await inside("stat", "-c", "%u %a", "/tmp/new/deep/given")).stdout).toBe("1000 644\n");
    // A file onto a file, both ways.
    writeFileSync(at("one"), "changed\n");
    expect(await cli("cp", at("one"), "web:/tmp/new/deep/given")).toMatchObject({ code: 0 });
    for (const _ of [1, 2]) expect(await cli("cp", "web:/tmp/new/deep/given", dir)).toMatchObject({ code: 0 });
    expect(readFileSync(at("given"), "utf8")).toBe("changed\n");
    expect(await cli("cp", "web:/tmp/new", at("back"))).toMatchObject({ code: 0 });
    expect(readdirSync(at("back")).toSorted()).toEqual(["deep", "tool", "tree"]);
    expect(await cli("cp", "web:/tmp/new", at("back"))).toMatchObject({ code: 0 });
    failed(await cli("cp", "web:/tmp/new", at("back")), 121, /is there already/);
    rmSync(at("back"), { recursive: true });

    failed(await cli("cp", at("one"), "web:/opt/one"), 125, /next: act as another user: --user root/);
    expect(await cli("cp", "--user", "root", at("one"), "web:/opt/one")).toMatchObject({ code: 0 });
    expect((await inside("stat", "-c", "%u", "/opt/one")).stdout).toBe("0\n");
    failed(await cli("cp", at("one"), "web:/tmp/none/"), 121, /there is no directory "\/tmp\/none\/" in the sandbox/);
    failed(await cli("cp", at("one"), "web:/tmp/none/x"), 125, /"\/tmp\/none"/);
    failed(await cli("cp", "web:/tmp/none", dir), 125, /"\/tmp\/none"/);
    failed(await cli("cp", at("tree"), "web:/tmp/new/tool"), 121, /no directory/);
    failed(await cli("cp", at("absent"), "web:/tmp/"), 125, /ENOENT/);

    const bytes = Buffer.alloc(300_000, "0123456789\r\n\0");
    const digest = createHash("sha256").update(bytes).digest("hex");
    expect((await fed(bytes, "exec", "-i", "web", "sha256sum")).stdout).toBe(`${digest}  -\n`);
    expect(await cli("exec", "web", "sh", "-c", "echo out; echo err >&2; exit 7")).toEqual({
      code: 7,
      signal: null,
      stdout: "out\n",
      stderr: "err\n",
    });
    failed(await cli("exec", "web", "--", "no-such-program"), 127, /no-such-program/);

    expect(await cli("stop", "web")).toMatchObject({ code: 0, stdout: "web: ended\n" });
    expect(await outcome).toMatchObject({ code: 9, stdout: "ready\n", stderr: "" });
    expect(await listed()).toEqual([]);
    failed(await cli("cp", at("one"), "web:/tmp/x"), 121, /no sandbox runs/);
  });

  test("is gone, socket and name with it, when its engine is killed with -9", async () => {
    const { child, outcome } = await running(level, "--name", "web");
    const engines = readdirSync(run).filter((name) => /^e[0-9a-f]{16}$/.test(name));
    expect(engines.some((engine) => existsSync(join(run, engine, "control/name-web")))).toBe(true);
    child.kill("SIGKILL");
    await outcome;
    expect(await listed()).toEqual([]);
    await expect.poll(() => leftovers(run, engines), { timeout: TIMEOUT_MS }).toEqual([]);
    await running(level, "--name", "web");
    expect((await listed()).map(({ name }) => name)).toEqual(["web"]);
  });
});

const lack = missing.length > 0 ? `: NOT TESTED, this machine lacks ${missing.join(", ")}` : "";

// Sandboxes need root, the two binaries and an image: where one is missing nothing here can be true or false.
describe.skipIf(levels.length === 0)(`names and ids of what runs${lack}`, { timeout: TIMEOUT_MS }, () => {
  test("a name belongs to one at a time, and says whose it is", async () => {
    await running("container", "--name", "one");
    await running("container");
    failed(await cli("run", "--isolation", "container", "--name", "one", "--", "true"), 121, /is called "one"/);
    failed(await cli("run", "--name", "No/Name", "--", "true"), 121, /--name "No\/Name" is not valid/);
    failed(await cli("exec", "s", "true"), 121, /could be 2 sandboxes\n.*one \(s[0-9a-f]{16}\)/);
    failed(await cli("exec", "two", "true"), 121, /no running sandbox is called "two"\n.*what runs: one \(s/);
    failed(await cli("cp", "a", "b"), 121, /both are the host's/);
    failed(await cli("cp", "a:x", "b:y"), 121, /both are in sandboxes/);
    failed(await cli("cp", "-", "one:/x"), 121, /tar c \. \| bulkhead exec -i NAME/);
    failed(await cli("cp", "one:/x"), 121, /a source and a target/);
    failed(await cli("stop"), 121, /no sandbox is named/);
  });

  test("a terminal is one, its size and keys too", async () => {
    await running("container", "--name", "one");
    const script = "stty size; while read -r line; do echo got $line; done; exit 3";
    const steps = [
      ["expect", "30 100"],
      ["send", "hello\r"],
      ["expect", "got hello"],
      ["send", "\u0004"],
    ] as const;
    const outcome = await atTerminal(["exec", "-it", "one", "bash", "-c", script], steps, env);
    expect(outcome).toMatchObject({ code: 3, restored: true, left: [] });
    const keys = [
      ["expect", "ready"],
      ["send", "\u0003"],
    ] as const;
    const interrupted = await atTerminal(["exec", "-it", "one", "sh", "-c", "echo ready; sleep 600"], keys, env);
    expect(interrupted).toMatchObject({ code: 130, restored: true, left: [] });
  });

  test("a disk that is full is told as that, and the sandbox goes on", async () => {
    await running("container", "--name", "one", "--disk", "32m");
    writeFileSync(at("large"), Buffer.alloc(64 * 1024 * 1024, "x"));
    failed(await cli("cp", at("large"), "one:/tmp/large"), 125, /next: raise the disk limit, or remove files/);
    expect(await cli("exec", "one", "rm", "/tmp/large")).toMatchObject({ code: 0 });
    expect(await cli("cp", "--json", "one:/etc/hostname", at("hostname"))).toMatchObject({ code: 0 });
  });

  test("what is called off leaves no part of a file on the host", async () => {
    await running("container", "--name", "one");
    const asked = start(["cp", "one:/dev/zero", at("zero")], env);
    failed(await asked.outcome, 121, /cannot be copied/);
    await cli("exec", "one", "sh", "-c", "truncate -s 20G /tmp/holes");
    const copying = start(["cp", "one:/tmp/holes", at("holes")], env);
    await expect.poll(() => readdirSync(dir).some((name) => name.startsWith(".bulkhead-copy-"))).toBe(true);
    copying.child.kill("SIGINT");
    expect(await copying.outcome).toMatchObject({ code: 130, stdout: "", stderr: "" });
    expect(readdirSync(dir).filter((name) => /holes|bulkhead-copy/.test(name))).toEqual([]);
  });

  test("nothing of it is seen inside, and no mount shows it", async () => {
    await running("container", "--name", "one");
    for (const source of [run, dir]) {
      const mounted = await cli("run", "--isolation", "container", "--mount", `${source}:/mnt`, "--", "ls", "/mnt");
      expect(mounted.code).toBe(121);
    }
    const find =
      "find / -xdev -name control -type d -o -name 'name-*' -path '*control*' 2>/dev/null; cat /proc/net/unix";
    expect((await cli("exec", "-u", "root", "one", "sh", "-c", find)).stdout).not.toMatch(/bulkhead|control\/socket/);
  });

  // A clone in a directory that is closed to others cannot be run by another user, which the title says.
  test.skipIf(CLOSED !== "")(`another user is told that it is root's${CLOSED}`, async () => {
    await running("container", "--name", "one");
    for (const words of [["list"], ["cp", "one:/etc/passwd", "/tmp/x"], ["exec", "one", "id"], ["stop", "one"]]) {
      const asked = start(words, env, undefined, ["setpriv", "--reuid=65534", "--clear-groups"]);
      failed(await asked.outcome, 125, /needs root/);
    }
  });
});
