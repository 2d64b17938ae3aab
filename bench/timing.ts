import { spawn } from "node:child_process";
import { once } from "node:events";
import type { Readable } from "node:stream";

export interface Timing {
  /** From the request until the sandbox can be given work, where that can be told. */
  readonly readyMs?: number;
  /** From the request to the first byte of output; NaN when there was none. */
  readonly firstMs: number;
  /** From the request until the work's end is known. */
  readonly doneMs: number;
}

export interface ProgramOptions {
  readonly env?: NodeJS.ProcessEnv;
  /** Fed to standard input; without it the input is at its end. */
  readonly input?: Readable;
  /** What the output must be; anything else is a measurement of something else. */
  readonly expect?: string;
  /** Counts output bytes instead of keeping them. */
  readonly onBytes?: (count: number) => void;
}

/** Enough of an error text to tell what happened. */
const KEEP_CHARACTERS = 2_000;

/** Runs a program on this machine and takes its times; a failure is an error, never a figure. */
export async function timeProgram(argv: readonly string[], options: ProgramOptions = {}): Promise<Timing> {
  const [file, ...rest] = argv;
  if (file === undefined) throw new Error("nothing to run");
  const started = performance.now();
  let firstMs = Number.NaN;
  const child = spawn(file, rest, {
    stdio: [options.input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
    env: options.env,
  });
  let out = "";
  let err = "";
  child.stdout?.on("data", (part: Buffer) => {
    if (Number.isNaN(firstMs)) firstMs = performance.now() - started;
    if (options.onBytes !== undefined) options.onBytes(part.length);
    else if (out.length < KEEP_CHARACTERS) out += part.toString();
  });
  child.stderr?.on("data", (part: Buffer) => (err = (err + part.toString()).slice(-KEEP_CHARACTERS)));
  if (options.input !== undefined && child.stdin !== null) {
    child.stdin.on("error", () => undefined);
    options.input.pipe(child.stdin);
  }
  const [code, signal] = (await once(child, "close")) as [number | null, string | null];
  const doneMs = performance.now() - started;
  if (code !== 0)
    throw new Error(`${argv.slice(0, 6).join(" ")} … ended with ${code ?? signal}: ${err.trim() || out.trim()}`);
  if (options.expect !== undefined && out !== options.expect) {
    throw new Error(
      `${argv.slice(0, 6).join(" ")} … answered ${JSON.stringify(out.slice(0, 200))}, not ${JSON.stringify(options.expect)}`,
    );
  }
  return { firstMs, doneMs };
}

/** Runs a program for its output. */
export async function output(argv: readonly string[], env?: NodeJS.ProcessEnv): Promise<string> {
  const [file, ...rest] = argv;
  if (file === undefined) throw new Error("nothing to run");
  const child = spawn(file, rest, { stdio: ["ignore", "pipe", "pipe"], env });
  let out = "";
  let err = "";
  child.stdout.on("data", (part: Buffer) => (out += part.toString()));
  child.stderr.on("data", (part: Buffer) => (err += part.toString()));
  const [code] = (await once(child, "close")) as [number | null];
  if (code !== 0)
    throw new Error(`${argv.join(" ").slice(0, 300)} ended with ${code}: ${err.trim().slice(-KEEP_CHARACTERS)}`);
  return out.trim();
}
