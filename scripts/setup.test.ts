import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { KERNEL_BUILD_PACKAGES } from "../packages/engine/src/guest/kernel.ts";
import { MONITOR_BUILD_PACKAGES, QEMU_PACKAGE } from "../packages/engine/src/guest/monitor.ts";
import { STOCK_KERNEL_PACKAGES } from "../packages/engine/src/guest/stock.ts";
import { runProgram, type ProgramResult } from "../packages/engine/src/system/process.ts";

const repository = join(import.meta.dirname, "..");
const NOBODY = "65534";
const onX64 = process.arch === "x64";
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
      "scripts/setup-steps.sh",
      "scripts/setup-microvm.sh",
      "scripts/node",
      "guest/kernel.config",
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
    for (const name of ["crun", "runc", "mmdebstrap", "cc", "cargo (1.91 or newer)", "node (24 or newer) with npm"]) {
      expect(result.stderr).toContain(name);
    }
    expect(result.stderr).toContain("install them by hand");
  });

  /** As after a first use without microVMs. */
  function everythingIsThere(): void {
    const past = new Date(Date.now() - 60_000);
    for (const dir of ["target/release", "node_modules", "agent/src", "packages/cli/src", ".bulkhead"]) {
      mkdirSync(join(home, dir), { recursive: true });
    }
    for (const name of ["agent", "keeper", "layers"])
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
      "guest/kernel.config",
      "scripts/setup.sh",
      "scripts/setup-steps.sh",
      "scripts/setup-microvm.sh",
      "scripts/node/package-lock.json",
    ]) {
      utimesSync(join(home, path), past, past);
    }
    stamp("run");
  }

  function stamp(mode: string): void {
    writeFileSync(join(home, `.bulkhead/ready-${mode}`), `${state}\n${process.execPath}\n`);
  }

  test("when everything is there it becomes the CLI, from anywhere and through links, until a source changes", async () => {
    everythingIsThere();
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

  describe.each([
    [["run", "--isolation", "microvm", "--", "true"], true],
    [["run", "--isolation=microvm", "true"], true],
    [["run", "-m", "1g", "--at-least", "microvm", "true"], true],
    [["run", "--trust", "multi-tenant", "true"], true],
    [["explain", "--trust=multi-tenant"], true],
    [["run", "--isolation", "gvisor", "--", "echo", "--isolation", "microvm"], false],
    [["run", "echo", "--isolation", "microvm"], false],
    [["run", "--env", "microvm=1", "--", "true"], false],
    [["run", "--trust", "untrusted", "true"], false],
    [["doctor"], false],
    [["image", "list", "microvm"], false],
  ] as const)("%j", (words, asks) => {
    // Elsewhere there is nothing to install: microVMs need x86-64.
    test.skipIf(!onX64)(asks ? "asks for what microVMs need" : "needs nothing of microVMs", async () => {
      everythingIsThere();
      const result = await run([join(home, "bulkhead"), ...words]);
      if (asks) {
        expect(result.exitCode).toBe(125);
        for (const name of ["qemu-system-x86_64", "mkfs.erofs", "bison"]) expect(result.stderr).toContain(name);
      } else {
        expect(result).toMatchObject({ exitCode: 0, stderr: "" });
      }
    });
  });

  test("what is refused without KVM installs nothing where there is none", async () => {
    everythingIsThere();
    const result = await run([join(home, "bulkhead"), "run", "--trust", "regulated", "true"]);
    expect(result.exitCode).toBe(existsSync("/dev/kvm") ? 125 : 0);
  });

  // As above.
  test.skipIf(!onX64)("a kernel that is there is enough, until its configuration changes", async () => {
    everythingIsThere();
    stamp("microvm");
    const words = [join(home, "bulkhead"), "run", "--isolation", "microvm", "true"];
    expect((await run(words)).exitCode).toBe(125);
    mkdirSync(join(state, "guest"));
    writeFileSync(join(state, "guest/index.json"), "[]");
    expect(await run(words)).toMatchObject({ exitCode: 0, stderr: "" });
    writeFileSync(join(home, "guest/kernel.config"), "");
    expect((await run(words)).exitCode).toBe(125);
  });

  test("setup says that nothing is missing, and what it does not know", async () => {
    everythingIsThere();
    const setup = (...words: readonly string[]): Promise<ProgramResult> =>
      run([join(home, "bulkhead"), "setup", ...words]);
    expect(await setup()).toMatchObject({ exitCode: 0, stdout: "" });
    expect(await setup("--help")).toMatchObject({ exitCode: 0, stdout: `["setup","--help"] ${state}\n` });
    for (const words of [["gvisor"], ["--stock-kernel"], ["microvm", "now"]]) {
      const result = await setup(...words);
      expect(result.exitCode).toBe(121);
      expect(result.stderr).toContain("bulkhead setup [microvm [--stock-kernel]]");
    }
  });

  // As above.
  test.skipIf(!onX64)("setup with the stock kernel needs no compiler", async () => {
    everythingIsThere();
    const result = await run([join(home, "bulkhead"), "setup", "microvm", "--stock-kernel"]);
    expect(result.exitCode).toBe(125);
    expect(result.stderr).toContain("qemu-system-x86_64");
    expect(result.stderr).not.toContain("bison");
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

describe("the set-up of microVMs", () => {
  const script = readFileSync(join(repository, "scripts/setup-microvm.sh"), "utf8");

  test.each([...KERNEL_BUILD_PACKAGES, ...STOCK_KERNEL_PACKAGES, ...MONITOR_BUILD_PACKAGES, QEMU_PACKAGE])(
    "installs %s, which a kernel or QEMU is made with",
    (name) => {
      expect(script).toMatch(new RegExp(`^ +want \\S+ ${name}$`, "m"));
    },
  );

  test("asks apt for the source that the kernel is built from", () => {
    const kernel = readFileSync(join(repository, "packages/engine/src/guest/kernel.ts"), "utf8");
    const source = /^readonly KERNEL_SOURCE=(\S+)$/m.exec(script)?.[1] ?? "none";
    expect(kernel).toContain(`const SOURCE_PACKAGE = "${source}";`);
  });

  const ask = async (stateDir: string, line: string): Promise<ProgramResult> => {
    const program = `home=${repository}; . scripts/setup.sh; . scripts/setup-steps.sh; . scripts/setup-microvm.sh; ${line}`;
    const env = { PATH: process.env["PATH"] ?? "", BULKHEAD_STATE: stateDir };
    return runProgram(["bash", "-c", program], { cwd: repository, env, timeoutMs: 5000 });
  };

  test("QEMU is built unless nobody wants to wait, and again when its devices are others", async () => {
    const stateDir = mkdtempSync(join(tmpdir(), "bulkhead-monitor-"));
    const ready = async (before = ""): Promise<boolean> =>
      (await ask(stateDir, `${before} monitor_is_ready`)).exitCode === 0;
    for (const dir of ["guest", "setup", "runtimes/qemu"]) mkdirSync(join(stateDir, dir), { recursive: true });
    expect(await ready()).toBe(false);
    expect(await ready("setup_kernel=stock;")).toBe(true);
    writeFileSync(join(stateDir, "guest/index.json"), '[\n  {\n    "kind": "stock"\n  }\n]\n');
    expect(await ready()).toBe(true);
    writeFileSync(join(stateDir, "guest/index.json"), '[\n  {\n    "kind": "own"\n  }\n]\n');
    expect(await ready()).toBe(false);
    writeFileSync(join(stateDir, "runtimes/qemu/qemu-system-x86_64"), "", { mode: 0o755 });
    writeFileSync(join(stateDir, "setup/monitor"), (await ask(stateDir, "monitor_mark")).stdout);
    expect(await ready()).toBe(true);
    expect(await ready("setup_explicit=yes;")).toBe(false);
    writeFileSync(join(stateDir, "setup/monitor"), "0 0\n");
    expect(await ready()).toBe(false);
  });

  test("a stock kernel is enough; an own one must be of this configuration", async () => {
    const stateDir = mkdtempSync(join(tmpdir(), "bulkhead-kernel-"));
    const ready = async (): Promise<number | null> => (await ask(stateDir, "kernel_is_ready")).exitCode;
    const index = (...kinds: readonly string[]): void =>
      writeFileSync(
        join(stateDir, "guest/index.json"),
        JSON.stringify(
          kinds.map((kind) => ({ kind })),
          null,
          2,
        ),
      );
    mkdirSync(join(stateDir, "guest"));
    mkdirSync(join(stateDir, "setup"));
    expect(await ready()).not.toBe(0);
    index("stock");
    expect(await ready()).toBe(0);
    expect((await ask(stateDir, "setup_explicit=yes kernel_is_ready")).exitCode).not.toBe(0);
    index("own", "stock");
    expect(await ready()).not.toBe(0);
    await ask(stateDir, 'kernel_mark >"$state/setup/kernel"');
    expect(await ready()).toBe(0);
    writeFileSync(join(stateDir, "setup/kernel"), "another");
    expect(await ready()).not.toBe(0);
  });
});
