import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { DoctorReport, Explanation } from "@bulkhead/engine";
import { afterAll, describe, expect, test } from "vitest";
import { lacking, start } from "./cli-process.ts";

const SECONDS = 1000;
/** Every call of a recorded program waits for a thread of the agent's: slow on a machine with much else to do. */
const LEARNING = { timeout: 180 * SECONDS };
const missing = lacking(process.env);
const dir = mkdtempSync(join(tmpdir(), "bulkhead-seccomp-"));
chmodSync(dir, 0o755);
const env = { ...process.env, BULKHEAD_RUN: join(dir, "run"), NO_COLOR: "1" };
const cli = (...words: string[]) => start(words, env).outcome;
const lack = missing.length > 0 ? `: NOT TESTED, this machine lacks ${missing.join(", ")}` : "";

afterAll(() => rmSync(dir, { recursive: true, force: true }));

const EXDEV = 18;
const DENY = {
  defaultAction: "SCMP_ACT_ALLOW",
  syscalls: [{ names: ["mkdir", "mkdirat"], action: "SCMP_ACT_ERRNO", errnoRet: EXDEV }],
};

function profile(name: string, content: unknown): string {
  const path = join(dir, name);
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
  return path;
}

async function workingLevels(): Promise<string[]> {
  if (missing.length > 0) return [];
  const report = JSON.parse((await cli("doctor", "--json")).stdout) as DoctorReport;
  return report.levels.filter((level) => level.works).map((level) => level.level);
}

describe.each(await workingLevels())("a profile given at %s", LEARNING, (level) => {
  const path = profile(`deny-${level}.json`, DENY);
  const run = (script: string, ...options: string[]) =>
    cli("run", "--isolation", level, ...options, "--", "sh", "-c", script);

  test("narrows every program, and nothing without it", async () => {
    const script = "mkdir /tmp/a; echo $?; (sh -c 'mkdir /tmp/b; echo $?')";
    expect((await run(script, "--seccomp", path)).stdout).toBe("1\n1\n");
    expect((await run(script)).stdout).toBe("0\n0\n");
  });

  test("holds for root too", async () => {
    expect((await run("mkdir /tmp/a", "--seccomp", path, "--user", "root")).stderr).toMatch(/cross-device/);
  });

  test("the plan names it, its digest and how much it lets through", async () => {
    const words = ["explain", "--isolation", level, "--seccomp", path] as const;
    const { plan } = JSON.parse((await cli(...words, "--json")).stdout) as Explanation;
    const { name, digest, calls, byArgument } = plan.boundary.givenSeccomp!;
    expect([name, byArgument]).toEqual([`deny-${level}.json`, 0]);
    expect(digest).toMatch(/^[0-9a-f]{64}$/);
    expect(calls).toBeGreaterThan(300);
    expect(plan.reasons.at(-1)).toMatch(/only narrows/);
    expect((await cli(...words)).stdout).toMatch(new RegExp(`narrowed by .*deny-${level}.json .*${calls} calls`));
  });
});

// Sandboxes need root, the two binaries and an image: where one is missing nothing here can be true or false.
describe.skipIf(missing.length > 0)(`profiles${lack}`, LEARNING, () => {
  const container = (...words: string[]) => cli("run", "--isolation", "container", ...words);

  test.each([
    ["no file", "/no/such/profile.json", /ENOENT/],
    ["no JSON", profile("text.json", "{"), /no JSON/],
    ["a typing error", profile("typo.json", { defaultAction: "SCMP_ACT_ALOW" }), /did you mean SCMP_ACT_ALLOW/],
    ["one that refuses execve", profile("none.json", { defaultAction: "SCMP_ACT_ERRNO" }), /execve/],
  ])("%s is refused", async (_name, path, words) => {
    const { code, stderr } = await container("--seccomp", path, "--", "true");
    expect([code, stderr]).toEqual([121, expect.stringMatching(words)]);
  });

  test("together with set-user-id programs it is refused where the kernel would not take it", async () => {
    const path = profile("setuid.json", DENY);
    const { code, stderr } = await container("--seccomp", path, "--allow-setuid", "--", "true");
    expect([code, stderr]).toEqual([120, expect.stringMatching(/set-user-id/)]);
  });

  test("a name that no kernel has is told", async () => {
    const path = profile("unknown.json", {
      ...DENY,
      syscalls: [{ names: ["opnat", "zzzzzzzz"], action: "SCMP_ACT_ALLOW" }],
    });
    const { stdout } = await cli("explain", "--isolation", "container", "--seccomp", path);
    expect(stdout).toMatch(/opnat \(did you mean openat\?\), zzzzzzzz/);
  });
});

const THREADS = `
import threading
t = [threading.Thread(target=sum, args=((1, 2),)) for _ in range(8)]
[x.start() for x in t]
[x.join() for x in t]
print("joined")
`;
const PROGRAMS: readonly (readonly [string, readonly string[]])[] = [
  ["python", ["python3", "-c", "print(6 * 7)"]],
  ["a pipeline", ["sh", "-c", "ls / | wc -l"]],
  ["threads", ["python3", "-c", THREADS]],
  ["curl", ["curl", "--version"]],
  ["git", ["sh", "-c", "cd /tmp && git init -q box && cat box/.git/HEAD"]],
];

// As above: learning starts sandboxes too.
describe.skipIf(missing.length > 0)(`learning${lack}`, LEARNING, () => {
  const learn = (path: string, ...words: string[]) =>
    cli("seccomp", "learn", "--isolation", "container", "-o", path, ...words);
  const run = (path: string, ...command: string[]) =>
    cli("run", "--isolation", "container", "--seccomp", path, "--", ...command);

  test.each(PROGRAMS)("%s runs again under its own profile", async (name, command) => {
    const path = join(dir, `${name}.json`);
    const first = await learn(path, "--", ...command);
    expect([first.code, first.stderr]).toEqual([0, ""]);
    expect(await run(path, ...command)).toEqual(first);
  });

  test("what was not learned is refused with EPERM, and succeeds without the profile", async () => {
    const path = join(dir, "narrow.json");
    const script = "import os, sys\nif sys.argv[1] == 'more': os.mkdir('/tmp/more')\nprint('done')";
    expect((await learn(path, "--", "python3", "-c", script, "less")).code).toBe(0);
    expect((await run(path, "python3", "-c", script, "less")).stdout).toBe("done\n");
    const more = await run(path, "python3", "-c", script, "more");
    expect([more.code, more.stderr]).toEqual([1, expect.stringMatching(/Operation not permitted/)]);
    const { stdout } = await cli("run", "--isolation", "container", "--", "python3", "-c", script, "more");
    expect(stdout).toBe("done\n");

    expect((await learn(path, "--merge", path, "--", "python3", "-c", script, "more")).code).toBe(0);
    for (const how of ["less", "more"]) expect((await run(path, "python3", "-c", script, how)).stdout).toBe("done\n");
  });

  test("a hostile workload teaches nothing that the container's profile refuses", async () => {
    const path = join(dir, "hostile.json");
    const script = `
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for number in range(470):
    if number in (15, 34, 56, 57, 58, 59, 60, 61, 127, 130, 219, 231, 247, 322, 435): continue
    if os.fork() == 0:
        os.setsid(); libc.alarm(2); libc.syscall(number, -1, -1, -1, -1, -1, -1); os._exit(0)
    os.wait()
`;
    expect((await learn(path, "--", "python3", "-c", script)).code).toBe(0);
    const text = readFileSync(path, "utf8");
    expect(text).toMatch(/"statx"/);
    for (const name of ["ptrace", "bpf", "keyctl", "io_uring_setup", "mount", "unshare", "setns", "kexec_load"]) {
      expect(text).not.toContain(`"${name}"`);
    }
  });

  test("without -o the profile is all of standard output", async () => {
    const { code, stdout, stderr } = await cli(
      "seccomp",
      "learn",
      "--isolation",
      "container",
      "--",
      "sh",
      "-c",
      "echo hi; exit 3",
    );
    expect([code, stderr]).toEqual([3, "hi\n"]);
    expect(JSON.parse(stdout)).toMatchObject({ defaultAction: "SCMP_ACT_ERRNO" });
  });

  test("only a container teaches", async () => {
    const { code, stderr } = await cli("seccomp", "learn", "--", "true");
    expect([code, stderr]).toEqual([120, expect.stringMatching(/--isolation container/)]);
  });
});
