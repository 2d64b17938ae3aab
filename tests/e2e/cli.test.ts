import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { connect } from "node:net";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import type { DoctorReport } from "@bulkhead/engine";
import { CLOSED, MAIN, atTerminal, lacking, leftovers, start, written } from "./cli-process.ts";

const SECONDS = 1000;
/** Teardown after the CLI itself was killed is the keeper's and takes a moment; this is when it counts as not done. */
const GONE_WITHIN_MS = 15 * SECONDS;

const missing = lacking(process.env);
const dir = mkdtempSync(join(tmpdir(), "bulkhead-e2e-"));
chmodSync(dir, 0o755);
const run = join(dir, "run");
const env = { ...process.env, BULKHEAD_RUN: run, NO_COLOR: "1", NODE_COMPILE_CACHE: join(dir, "cache") };
const engines = new Set<string>();

function noteEngines(): void {
  if (existsSync(run)) for (const name of readdirSync(run)) engines.add(name);
}

const cli = (words: readonly string[], input?: string | Buffer) => start(words, env, input).outcome;

async function workingLevels(): Promise<string[]> {
  if (missing.length > 0) return [];
  const report = JSON.parse((await cli(["doctor", "--json"])).stdout) as DoctorReport;
  return report.levels.filter((level) => level.works).map((level) => level.level);
}

const levels = await workingLevels();

async function until(condition: () => boolean): Promise<boolean> {
  const deadline = Date.now() + GONE_WITHIN_MS;
  while (!condition() && Date.now() < deadline) await new Promise((r) => setTimeout(r, 50));
  return condition();
}

afterAll(() => rmSync(dir, { recursive: true, force: true }));

const lack = missing.length > 0 ? `: NOT TESTED, this machine lacks ${missing.join(", ")}` : "";

describe.each(levels)("run at %s", { timeout: 60 * SECONDS }, (level) => {
  const inside = (words: readonly string[], input?: string | Buffer) =>
    cli(["run", "--isolation", level, ...words], input);
  const shell = (script: string, ...options: string[]) => inside([...options, "--", "sh", "-c", script]);

  test.each([0, 1, 7, 120, 255])("exit code %i passes through", async (code) => {
    expect(await shell(`exit ${code}`)).toMatchObject({ code, stdout: "", stderr: "" });
  });

  test("a signal's end is 128 + n", async () => expect((await shell("kill -9 $$")).code).toBe(137));

  test("output and errors stay apart", async () => {
    expect(await shell("echo out; echo err >&2")).toEqual({ code: 0, signal: null, stdout: "out\n", stderr: "err\n" });
  });

  test("arguments arrive as they are", async () => {
    const { stdout } = await inside(["--", "printf", "<%s>", "a b", "", "--json", "$HOME", "é\n"]);
    expect(stdout).toBe("<a b><><--json><$HOME><é\n>");
  });

  test("without -i there is no input", async () => {
    expect((await inside(["cat"], "secret")).stdout).toBe("");
  });

  test("with -i every byte of it arrives", async () => {
    const input = Buffer.alloc(8 * 1024 * 1024, "0123456789abcdef!");
    const { stdout } = await inside(["-i", "sha256sum"], input);
    expect(stdout.split(" ")[0]).toBe(createHash("sha256").update(input).digest("hex"));
  });

  test("a program that does not read its input ends all the same", async () => {
    expect((await inside(["-i", "--", "true"], Buffer.alloc(8 * 1024 * 1024))).code).toBe(0);
  });

  test("a published port is told, leads to the program, and is gone with it", async () => {
    const serve =
      "import socket;s=socket.create_server(('127.0.0.1',8080));c,_=s.accept();c.sendall(b'inside');c.close()";
    const words = ["run", "--isolation", level, "--publish", "0:8080", "--", "python3", "-c", serve];
    const { child, outcome } = start(words, env);
    const told = new Promise<number>((resolve) => {
      let text = "";
      child.stderr?.on("data", (chunk: string) => {
        const port = /http:\/\/127\.0\.0\.1:(\d+)\n/.exec((text += chunk))?.[1];
        if (port !== undefined) resolve(Number(port));
      });
    });
    const port = await Promise.race([told, outcome.then(({ stderr }) => Promise.reject(new Error(stderr)))]);
    const talk = async (): Promise<string> => (await Array.fromAsync(connect(port, "127.0.0.1"))).join("");
    // The program listens some time after its port is published.
    await expect.poll(() => talk().catch(() => ""), { timeout: 30 * SECONDS }).toBe("inside");
    expect(await outcome).toMatchObject({ code: 0, stdout: "" });
    await expect(talk()).rejects.toMatchObject({ code: "ECONNREFUSED" });
  });

  test("variables from the command line, the host and a file", async () => {
    const file = join(dir, `${level}.env`);
    writeFileSync(file, "# comment\nFROM_FILE=f g\n\nNO_COLOR\n");
    const { stdout } = await shell(
      'echo "$A|$FROM_FILE|$NO_COLOR|$USER|$HOME|${BULKHEAD_RUN-unset}"',
      ...["-e", "A=1=2", "--env-file", file],
    );
    expect(stdout).toBe("1=2|f g|1|user|/home/user|unset\n");
  });

  test("user, working directory and host name", async () => {
    const script = "id -u; pwd; hostname";
    expect((await shell(script)).stdout).toBe("1000\n/home/user\nbulkhead\n");
    const { stdout } = await shell(script, "--user", "root", "--workdir", "/usr", "--hostname", "ship");
    expect(stdout).toBe("0\n/usr\nship\n");
  });

  test("mounts, read-only and not", async () => {
    const shared = join(dir, `shared-${level}`);
    mkdirSync(shared);
    chmodSync(shared, 0o777);
    writeFileSync(join(shared, "a"), "from the host\n");
    const readOnly = await shell("cat /data/a; echo x > /data/b", "--mount", `${shared}:/data:ro`);
    expect(readOnly).toMatchObject({ stdout: "from the host\n" });
    expect(readOnly.code).not.toBe(0);
    expect(existsSync(join(shared, "b"))).toBe(false);
    expect((await shell("echo from inside > /data/b", "--user", "root", "--mount", `${shared}:/data`)).code).toBe(0);
    expect(readFileSync(join(shared, "b"), "utf8")).toBe("from inside\n");
  });

  test("nothing of what one run wrote is there in the next", async () => {
    await shell("touch /tmp/here ~/here");
    expect((await shell("ls /tmp /home/user")).stdout).not.toContain("here");
  });

  test("a descendant that keeps the output open does not keep us", async () => {
    const started = performance.now();
    expect(await shell("sleep 300 & echo done")).toMatchObject({ code: 0, stdout: "done\n" });
    expect(performance.now() - started).toBeLessThan(30 * SECONDS);
  });

  test("the time limit ends the program with 124 and says so", async () => {
    const { code, stdout, stderr } = await shell("echo begun; sleep 300", "--timeout", "3s");
    expect({ code, stdout }).toEqual({ code: 124, stdout: "begun\n" });
    expect(stderr).toMatch(/^bulkhead: the time limit of 3 s was reached\n {2}why: .*\n {2}next: .*\n$/);
  });

  test("the output limit ends the program with 123, and what it wrote until then is there", async () => {
    const { code, stdout, stderr } = await shell("echo 0123456789; sleep 300", "--output-max", "5b");
    expect({ code, stdout }).toEqual({ code: 123, stdout: "01234" });
    expect(stderr).toMatch(/^bulkhead: command .* wrote more than 5 B and was killed\n {2}why: .*\n {2}next: .*\n$/);
  });

  test("a limit that was reached is said after the program's own words, and in the report", async () => {
    const fill = "head -c 100m /dev/zero > /home/user/fill";
    const plain = await shell(fill, "--disk", "16m");
    expect(plain.code).toBe(1);
    expect(plain.stderr).toMatch(
      /No space left on device\nbulkhead: the disk limit of 16 MiB was reached: .*--disk.*\n$/,
    );
    const { stdout } = await shell(fill, "--disk", "16m", "--json");
    const lines = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines.at(-2)).toMatchObject({
      type: "limit",
      limit: "disk",
      value: 2 ** 24,
      killed: null,
      toldBy: "inside",
    });
    expect(lines.at(-1)).toMatchObject({ type: "exit", code: 1, limits: ["disk"] });
  });

  test.each(["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1"] as const)(
    "%s reaches the program",
    async (signal) => {
      const name = signal.slice(3);
      const script = `trap 'echo got ${name}; exit 5' ${name}; echo ready; while :; do sleep 0.05; done`;
      const { child, outcome } = start(["run", "--isolation", level, "--", "sh", "-c", script], env);
      await written(child, "ready");
      child.kill(signal);
      expect(await outcome).toMatchObject({ code: 5, stdout: `ready\ngot ${name}\n` });
    },
  );

  test("a program that ignores signals is killed by the third", async () => {
    const script = "trap '' INT TERM; echo ready; while :; do sleep 0.05; done";
    const { child, outcome } = start(["run", "--isolation", level, "--", "sh", "-c", script], env);
    await written(child, "ready");
    for (const signal of ["SIGINT", "SIGTERM", "SIGINT"] as const) {
      child.kill(signal);
      await new Promise((r) => setTimeout(r, 200));
    }
    expect((await outcome).code).toBe(128 + constants.signals.SIGKILL);
  });

  test("a signal before the program runs ends the start", async () => {
    const { child, outcome } = start(["run", "--isolation", level, "--", "sleep", "300"], env);
    await until(() => existsSync(run) && readdirSync(run).length > 0);
    noteEngines();
    child.kill("SIGTERM");
    expect((await outcome).code).toBe(128 + constants.signals.SIGTERM);
  });

  test("a reader that goes away ends the program quietly", async () => {
    const { child, outcome } = start(["run", "--isolation", level, "--", "yes"], env);
    await written(child, "y");
    child.stdout?.destroy();
    expect(await outcome).toMatchObject({ code: 128 + constants.signals.SIGPIPE, stderr: "" });
  });

  test("a slow reader gets everything and does not stop signals", async () => {
    const { child, outcome } = start(["run", "--isolation", level, "--", "yes"], env);
    await written(child, "y");
    child.stdout?.pause();
    await new Promise((r) => setTimeout(r, 500));
    child.kill("SIGTERM");
    child.stdout?.resume();
    expect((await outcome).code).toBe(128 + constants.signals.SIGTERM);
  });

  test("with --json everything is an event", async () => {
    const { code, stdout, stderr } = await shell("echo out; echo err >&2; printf '\\377'; exit 3", "--json");
    const events = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect({ code, stderr }).toEqual({ code: 3, stderr: "" });
    expect(events[0]).toMatchObject({ type: "start", level });
    expect(events.filter((event) => event["type"] === "stderr")).toEqual([{ type: "stderr", text: "err\n" }]);
    expect(events.at(-1)).toMatchObject({ type: "exit", code: 3, signal: null });
  });

  test("with --json a failure is an event too", async () => {
    const { code, stdout } = await inside(["--json", "--", "no-such-program"]);
    const last = JSON.parse(stdout.trim().split("\n").at(-1) ?? "") as Record<string, unknown>;
    expect(code).toBe(127);
    expect(last).toMatchObject({ type: "error", code: "COMMAND_NOT_FOUND", exit: 127 });
  });

  test("at a terminal: its size, its resizing, keys and colours of its own", async () => {
    const script =
      "read x; echo got $x; until [ \"$(stty size)\" = '40 90' ]; do sleep 0.05; done; echo resized; read y; echo got $y";
    const outcome = await atTerminal(
      ["run", "--isolation", level, "-it", "--", "bash", "-c", `stty size; ${script}`],
      [
        ["expect", "30 100"],
        ["send", "hello\r"],
        ["expect", "got hello"],
        ["resize", 40, 90],
        ["expect", "resized"],
        ["send", "bye\r"],
        ["expect", "got bye"],
      ],
      env,
    );
    expect(outcome).toMatchObject({ code: 0, restored: true, left: [] });
  });

  test("at a terminal Ctrl-C is a key for the program inside", async () => {
    const script = "trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.05; done";
    const words = ["run", "--isolation", level, "-it", "--", "bash", "-c", script];
    const outcome = await atTerminal(
      words,
      [
        ["expect", "ready"],
        ["send", "\u0003"],
        ["expect", "interrupted"],
      ],
      env,
    );
    expect(outcome).toMatchObject({ code: 9, restored: true, left: [] });
  });

  test("the terminal is restored when the program is killed", async () => {
    const words = ["run", "--isolation", level, "-it", "--", "bash", "-c", "echo ready; sleep 300"];
    const steps = [
      ["expect", "ready"],
      ["signal", 15],
    ] as const;
    expect(await atTerminal(words, steps, env)).toMatchObject({ restored: true, left: [] });
  });

  test("killed with -9, nothing of it is left", async () => {
    const { child } = start(["run", "--isolation", level, "--", "sh", "-c", "echo ready; sleep 300"], env);
    await written(child, "ready");
    noteEngines();
    child.kill("SIGKILL");
    await until(() => leftovers(run, [...engines]).length === 0);
    expect(leftovers(run, [...engines])).toEqual([]);
  });

  const refused: ReadonlyArray<[string, readonly string[], number, RegExp]> = [
    ["an unknown image", ["--image", "nope", "--pull=never", "true"], 121, /^bulkhead: image "nope" is not/],
    ["an unknown user", ["--user", "nobody-here", "--", "true"], 121, /nobody-here/],
    ["an unknown working directory", ["--workdir", "/no/such", "--", "true"], 121, /\/no\/such/],
    ["a program that does not exist", ["--", "no-such-program"], 127, /no-such-program/],
    ["a program that cannot be run", ["--", "/etc/passwd"], 126, /\/etc\/passwd/],
    ["a mount that does not exist", ["--mount", "/no/such:/data", "--", "true"], 121, /"\/no\/such" does not exist/],
    ["a mount of the host's proc", ["--mount", "/proc:/data", "--", "true"], 121, /"\/proc" is refused/],
    ["no memory", ["--memory", "0", "--", "true"], 121, /^bulkhead: --memory 0 is not valid\n/],
  ];
  test.each(refused)("%s is refused in three lines", async (_, words, code, what) => {
    const outcome = await inside(words);
    expect(outcome).toMatchObject({ code, stdout: "" });
    expect(outcome.stderr).toMatch(what);
    expect(outcome.stderr).toMatch(/^bulkhead: [^\n]+\n {2}why: +[^\n]+\n {2}next: [^\n]+\n$/);
  });
});

// Sandboxes need root, the two binaries and an image: where one is missing nothing here can be true or false.
describe.skipIf(missing.length > 0)(`around run${lack}`, { timeout: 60 * SECONDS }, () => {
  const refused: ReadonlyArray<[string, readonly string[], number, RegExp]> = [
    ["an unknown command", ["rnu"], 121, /next: did you mean bulkhead run\?/],
    ["an unknown option", ["run", "--memmory", "1g", "--", "true"], 121, /next: did you mean --memory\?/],
    ["an unknown level", ["run", "--isolation", "gvisr", "--", "true"], 121, /next: did you mean gvisor\?/],
    [
      "a level below the trust's floor",
      ["run", "--isolation", "container", "--trust", "untrusted", "--", "true"],
      120,
      /refused for trust/,
    ],
    ["hardware where there is none", ["run", "--hardware", "--isolation", "gvisor", "--", "true"], 120, /hardware/],
    [
      "a file of variables that is not there",
      ["run", "--env-file", "/no/such", "--", "true"],
      121,
      /"\/no\/such" cannot be read/,
    ],
    ["a terminal that is none", ["run", "-it", "--", "true"], 121, /standard input is not a terminal/],
    ["an argument too many", ["doctor", "now"], 121, /takes no argument "now"/],
    ["an unknown image action", ["image", "push"], 121, /unknown action "push"/],
    ["an image that is not there", ["image", "remove", "nope"], 121, /"nope" is not in the store/],
  ];
  test.each(refused)("%s is refused in three lines", async (_, words, code, what) => {
    const outcome = await cli(words);
    expect(outcome).toMatchObject({ code, stdout: "" });
    expect(outcome.stderr).toMatch(what);
    expect(outcome.stderr).toMatch(/^bulkhead: [^\n]+\n {2}why: +[^\n]+\n {2}next: [^\n]+\n$/);
  });

  // Nobody can start what lies in a directory of root's alone.
  test.skipIf(CLOSED !== "")(`without root it says what to do${CLOSED}`, async () => {
    const words = ["run", "--isolation", "container", "--", "true"];
    const { code, stderr } = await start(words, { PATH: process.env["PATH"] }, undefined, [
      "setpriv",
      "--reuid=65534",
      "--clear-groups",
    ]).outcome;
    expect(code).toBe(125);
    expect(stderr).toMatch(/^bulkhead: bulkhead needs root\n {2}why: .*65534\n {2}next: .*sudo\n$/);
  });

  test("the same options explain to the same digest, others to another", async () => {
    const digest = async (...words: string[]): Promise<string> => {
      const { stdout } = await cli(["explain", "--isolation", levels[0] ?? "container", "--json", ...words]);
      return (JSON.parse(stdout) as { digest: string }).digest;
    };
    const first = await digest("-e", "A=1", "-e", "B=2");
    expect(first).toMatch(/^sha256:[0-9a-f]{64}$/);
    expect(await digest("-e", "B=2", "-e", "A=1")).toBe(first);
    expect(await digest("-e", "A=1", "-e", "B=3")).not.toBe(first);
  });

  test("explain says what weakens the boundary, and shows no variable's value", async () => {
    const { stdout } = await cli(["explain", "--isolation", "container", "--allow-setuid", "-e", "KEY=hunter2"]);
    expect(stdout).toMatch(/Weaker than the default\n.*set-user-id/);
    expect(stdout).not.toContain("hunter2");
  });

  test("version and help say what they are asked", async () => {
    expect(JSON.parse((await cli(["version", "--json"])).stdout)).toMatchObject({ node: process.versions.node });
    expect((await cli(["help", "run"])).stdout).toMatch(/--isolation LEVEL[\s\S]*Examples:[\s\S]*Exit codes:/);
    expect((await cli(["run", "--help"])).stdout).toBe((await cli(["help", "run"])).stdout);
  });

  test("help into a reader that goes away is no failure", async () => {
    const shell = `"${process.execPath}" "${MAIN}" help run | head -1; echo "\${PIPESTATUS[0]}"`;
    const { stdout, stderr } = await start([], env, undefined, ["bash", "-c", shell]).outcome;
    expect(stdout.trim().split("\n")).toEqual([expect.stringMatching(/^Usage/) as string, "0"]);
    expect(stderr).toBe("");
  });

  test("every level that has a driver was tested", () => expect(levels).toEqual(["container", "gvisor", "microvm"]));

  test("after all this nothing is left", async () => {
    noteEngines();
    await until(() => leftovers(run, [...engines]).length === 0);
    expect(leftovers(run, [...engines])).toEqual([]);
  });
});
