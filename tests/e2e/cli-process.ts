import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const REPOSITORY = fileURLToPath(new URL("../../", import.meta.url));
export const MAIN = join(REPOSITORY, "packages/cli/src/main.ts");
const TERMINAL = fileURLToPath(new URL("terminal.py", import.meta.url));
const TERMINAL_TIMEOUT_S = 30;

export interface Outcome {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export type Environment = Readonly<Record<string, string | undefined>>;

export interface Started {
  readonly child: ChildProcess;
  readonly outcome: Promise<Outcome>;
}

/** What a real run needs and this machine lacks, in words; empty when tests can run. */
export function lacking(env: Environment): string[] {
  const state = env["BULKHEAD_STATE"] ?? "/var/lib/bulkhead";
  const built = (name: string, variable: string): string => env[variable] ?? join(REPOSITORY, "target/release", name);
  const found: string[] = [];
  if (process.getuid?.() !== 0) found.push("root");
  for (const program of ["agent", "keeper", "layers"]) {
    const path = built(`bulkhead-${program}`, `BULKHEAD_${program.toUpperCase()}`);
    if (!existsSync(path)) found.push(path);
  }
  if (!existsSync(join(state, "images/refs/base"))) found.push(`the base image in ${state}`);
  return found;
}

function closedToOthers(): string {
  for (let path = MAIN; path !== dirname(path); path = dirname(path)) {
    if ((statSync(path).mode & 0o005) === 0) return `: NOT TESTED, ${path} is closed to other users`;
  }
  return "";
}

/** Why another user than root cannot start the CLI from where it lies, for the name of a test; empty where he can. */
export const CLOSED = closedToOthers();

/** Starts the real CLI, as the launcher does: without the -- Node.js takes our --env-file for its own. */
export function start(
  words: readonly string[],
  env: Environment,
  input?: string | Buffer,
  prefix: readonly string[] = [],
): Started {
  const [program = process.execPath, ...args] = [...prefix, process.execPath, "--", MAIN, ...words];
  const child = spawn(program, args, {
    env: { ...env },
    stdio: [input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
  });
  const text = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name]?.setEncoding("utf8").on("data", (chunk: string) => (text[name] += chunk));
  }
  child.stdin?.on("error", () => {});
  child.stdin?.end(input);
  const outcome = new Promise<Outcome>((done) => {
    child.once("close", (code, signal) => done({ code, signal, ...text }));
  });
  return { child, outcome };
}

export type TerminalStep =
  | readonly ["expect" | "send", string]
  | readonly ["resize", number, number]
  | readonly ["signal", number];

export interface TerminalOutcome {
  readonly output: string;
  readonly code: number | null;
  /** The terminal has the settings it had before. */
  readonly restored: boolean;
  readonly left: readonly TerminalStep[];
}

/** Runs the CLI at a terminal of 30 rows and 100 columns. */
export async function atTerminal(
  words: readonly string[],
  steps: readonly TerminalStep[],
  env: Environment,
): Promise<TerminalOutcome> {
  const script = JSON.stringify({ rows: 30, cols: 100, steps, timeout: TERMINAL_TIMEOUT_S });
  const child = spawn("python3", [TERMINAL, script, process.execPath, "--", MAIN, ...words], { env: { ...env } });
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
  await new Promise((done) => child.once("close", done));
  return JSON.parse(text) as TerminalOutcome;
}

/** Resolves once the child has written `text`, with everything it wrote until then. */
export function written(child: ChildProcess, text: string): Promise<void> {
  return new Promise((done, failed) => {
    let seen = "";
    child.stdout?.on("data", (chunk: Buffer | string) => {
      seen += chunk.toString();
      if (seen.includes(text)) done();
    });
    child.once("close", () => failed(new Error(`it ended before it wrote ${JSON.stringify(text)}: ${seen}`)));
  });
}

function cgroupsOf(engines: readonly string[]): string[] {
  const roots = ["/sys/fs/cgroup", ...readdirSync("/sys/fs/cgroup").map((name) => join("/sys/fs/cgroup", name))];
  const parents = roots
    .map((root) => join(root, "bulkhead"))
    .filter((path) => existsSync(path) && statSync(path).isDirectory());
  return parents.flatMap((parent) =>
    readdirSync(parent)
      .filter((name) => engines.includes(name))
      .map((name) => join(parent, name)),
  );
}

/** Everything of a run directory that is still on this machine. `engines` are names seen in it while it was in use. */
export function leftovers(run: string, engines: readonly string[]): string[] {
  const dirs = existsSync(run) ? readdirSync(run).filter((name) => statSync(join(run, name)).isDirectory()) : [];
  const mounts = readFileSync("/proc/mounts", "utf8")
    .split("\n")
    .filter((line) => line.includes(run));
  const processes = readdirSync("/proc").filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(run);
    } catch {
      return false;
    }
  });
  return [...dirs, ...mounts, ...processes.map((pid) => `process ${pid}`), ...cgroupsOf(engines)];
}
