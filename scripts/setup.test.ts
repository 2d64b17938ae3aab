import { chmodSync, cpSync, mkdirSync, mkdtempSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { runProgram, type ProgramResult } from "../packages/engine/src/system/process.ts";

const repository = join(import.meta.dirname, "..");
const NOBODY = "65534";
/** What the scripts use of a bare system: no apt, no compiler, no Node.js. */
const TOOLS = [
  "bash",
  "cat",
  "cksum",
  "cmp",
  "find",
  "flock",
  "grep",
  "mkdir",
  "mktemp",
  "mv",
  "readlink",
  "rm",
  "sed",
  "touch",
  "uname",
];

describe("launcher", () => {
  let home: string;
  let state: string;
  let env: Record<string, string>;

  beforeEach(() => {
    const base = mkdtempSync(join(tmpdir(), "bulkhead launcher "));
    chmodSync(base, 0o755);
    [home, state] = [join(base, "repo"), join(base, "state")];
    for (const path of [
      "bulkhead",
      "x",
      "scripts/setup.sh",
      "scripts/node",
      "packages/cli/package.json",
      "package-lock.json",
    ]) {
      cpSync(join(repository, path), join(home, path), { recursive: true });
    }
    const tools = join(base, "bin");
    mkdirSync(tools);
    for (const tool of TOOLS) symlinkSync(`/bin/${tool}`, join(tools, tool));
    env = { PATH: tools, BULKHEAD_STATE: state };
  });

  const run = (argv: readonly string[], cwd = "/"): Promise<ProgramResult> =>
    runProgram(argv, { env, cwd, timeoutMs: 20_000 });

  test("help and version need neither root nor anything installed", async () => {
    const asNobody = ["/usr/bin/setpriv", "--reuid", NOBODY, "--clear-groups", "--", join(home, "bulkhead")];
    expect(await run([...asNobody, "version"])).toMatchObject({ exitCode: 0, stdout: "bulkhead 0.1.0\n" });
    expect((await run([...asNobody, "run", "--help"])).stdout).toContain("sudo bulkhead run");
  });

  test("without root says how to get it, with the arguments as they were", async () => {
    const result = await run([
      "/usr/bin/setpriv",
      "--reuid",
      NOBODY,
      "--clear-groups",
      "--",
      join(home, "bulkhead"),
      "run",
      "a b",
    ]);
    expect(result).toMatchObject({ exitCode: 125, stdout: "" });
    expect(result.stderr).toMatch(
      /^bulkhead: error: .* needs root .*\nbulkhead: next: {2}sudo .*\/bulkhead run a\\ b\n$/,
    );
  });

  test("without apt names every program that is missing and changes nothing", async () => {
    const result = await run([join(home, "bulkhead"), "run", "true"]);
    expect(result.exitCode).toBe(125);
    for (const name of ["crun", "runc", "mmdebstrap", "cc", "cargo (1.85 or newer)", "node (24 or newer) with npm"]) {
      expect(result.stderr).toContain(name);
    }
    expect(result.stderr).toContain("install them by hand");
  });

  test("when everything is there it becomes the CLI, from anywhere and through links, until a source changes", async () => {
    const past = new Date(Date.now() - 60_000);
    for (const dir of ["target/release", "node_modules", "agent/src", "packages/cli/src", ".bulkhead"]) {
      mkdirSync(join(home, dir), { recursive: true });
    }
    for (const name of ["agent", "keeper"])
      writeFileSync(join(home, `target/release/bulkhead-${name}`), "", { mode: 0o755 });
    writeFileSync(join(home, "agent/src/main.rs"), "");
    const cli = "console.log(JSON.stringify(process.argv.slice(2)), process.env.BULKHEAD_STATE);";
    writeFileSync(join(home, "packages/cli/src/main.ts"), cli);
    mkdirSync(join(state, "setup"), { recursive: true });
    writeFileSync(join(state, "setup/ready"), "");
    for (const path of [
      "agent",
      "agent/src",
      "agent/src/main.rs",
      "package-lock.json",
      "scripts/setup.sh",
      "scripts/node/package-lock.json",
    ]) {
      utimesSync(join(home, path), past, past);
    }
    writeFileSync(join(home, ".bulkhead/ready-run"), `${state}\n${process.execPath}\n`);
    symlinkSync("repo/bulkhead", join(home, "../one"));
    symlinkSync(join(home, "../one"), join(home, "../two"));

    const expected = { exitCode: 0, stdout: `["run","a b"] ${state}\n`, stderr: "" };
    expect(await run([join(home, "bulkhead"), "run", "a b"])).toMatchObject(expected);
    expect(await run(["./bulkhead", "run", "a b"], home)).toMatchObject(expected);
    expect(await run(["../two", "run", "a b"], home)).toMatchObject(expected);
    expect(await run(["bash", "bulkhead", "run", "a b"], home)).toMatchObject(expected);

    writeFileSync(join(home, "agent/src/new.rs"), "");
    expect((await run([join(home, "bulkhead"), "run"])).exitCode).toBe(125);
  });

  test("./x refuses what it does not know", async () => {
    const result = await run([join(home, "x"), "tests"]);
    expect(result).toMatchObject({ exitCode: 125 });
    expect(result.stderr).toContain('there is no "tests"');
  });
});

test("a runsc is judged by the date in its version", async () => {
  const ask = async (text: string): Promise<number | null> => {
    const script = '. scripts/setup.sh; runsc_is_new "$1"';
    return (await runProgram(["bash", "-c", script, "bash", text], { cwd: repository, timeoutMs: 5000 })).exitCode;
  };
  expect(await ask("0.0~20221219.0-2+b3")).toBe(1);
  expect(await ask("0.0~20240729.0-4~bpo12+2")).toBe(0);
  expect(await ask("release-20251103.0")).toBe(0);
  expect(await ask("")).toBe(1);
});
