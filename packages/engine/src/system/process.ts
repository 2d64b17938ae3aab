import { spawn, type ChildProcess } from "node:child_process";
import { BulkheadError, type ErrorCode } from "@bulkhead/contract";

/** Kept of each output stream unless told otherwise; what matters of a failing program is at its end. */
const DEFAULT_MAX_OUTPUT_BYTES = 1024 * 1024;
/** A line without an end is cut here, so that a program cannot fill memory through `onLine`. */
const MAX_LINE_CHARACTERS = 4096;
/** Time between the polite and the final signal. */
const KILL_GRACE_MS = 2000;
const FAILURE_TAIL_LINES = 12;

export interface ProgramOptions {
  /** The program is killed, with everything in its process group, when this many milliseconds have passed. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
  readonly cwd?: string;
  /** An open file that becomes its standard input; the caller closes it afterwards. Nothing when left out. */
  readonly stdin?: number;
  /** The whole environment; nothing is inherited besides it when it is given. */
  readonly env?: Readonly<Record<string, string>>;
  /** Called for each line of either stream, without its end. Must not throw. */
  readonly onLine?: (line: string, stream: "stdout" | "stderr") => void;
  /** Takes standard output as it comes; none of it is kept then and `stdout` is empty. Must not throw. */
  readonly onStdout?: (chunk: Buffer) => void;
  /** The last this many bytes of each stream are kept. */
  readonly maxOutputBytes?: number;
}

export interface ProgramResult {
  /** Null when a signal ended the program. */
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  /** The kept end of the stream. */
  readonly stdout: string;
  readonly stderr: string;
  readonly truncated: boolean;
}

/** The last bytes of a stream and its lines as they come. */
class OutputTail {
  #chunks: Buffer[] = [];
  #bytes = 0;
  #line = "";
  truncated = false;
  readonly #max: number;
  readonly #onLine: ((line: string) => void) | undefined;

  constructor(max: number, onLine: ((line: string) => void) | undefined) {
    this.#max = max;
    this.#onLine = onLine;
  }

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    if (this.#bytes > 2 * this.#max) this.#compact();
    if (this.#onLine !== undefined) this.#lines(chunk.toString("utf8"));
  }

  text(): string {
    this.#compact();
    return Buffer.concat(this.#chunks).toString("utf8");
  }

  end(): void {
    if (this.#line !== "") this.#onLine?.(this.#line);
    this.#line = "";
  }

  #compact(): void {
    if (this.#bytes <= this.#max) return;
    const all = Buffer.concat(this.#chunks);
    this.#chunks = [Buffer.from(all.subarray(all.length - this.#max))];
    this.#bytes = this.#max;
    this.truncated = true;
  }

  #lines(text: string): void {
    const parts = (this.#line + text).split(/\r\n|\n|\r/);
    this.#line = (parts.pop() ?? "").slice(0, MAX_LINE_CHARACTERS);
    for (const part of parts) this.#onLine?.(part.slice(0, MAX_LINE_CHARACTERS));
  }
}

type Ending = { readonly why: "exit" } | { readonly why: "timeout" } | { readonly why: "aborted" };

/**
 * Runs a program to its end, standard input closed unless a file is given. An exit code other than 0 is a result, not an error.
 *
 * @throws BulkheadError HOST_UNSUPPORTED when the program does not exist or cannot be started, TIMEOUT, ABORTED. In the
 * last two cases the program and its process group are gone before this returns.
 */
export async function runProgram(argv: readonly string[], options: ProgramOptions): Promise<ProgramResult> {
  const [file, ...args] = argv;
  if (file === undefined) throw new BulkheadError("INTERNAL", { what: "runProgram was given an empty argv" });
  if (options.signal?.aborted === true) throw aborted(file);
  const child = spawn(file, args, {
    stdio: [options.stdin ?? "ignore", "pipe", "pipe"],
    // Its own process group, so that a kill reaches the program's children too.
    detached: true,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.env === undefined ? {} : { env: { ...options.env } }),
  });
  const max = options.maxOutputBytes ?? DEFAULT_MAX_OUTPUT_BYTES;
  const { onLine } = options;
  const out = new OutputTail(max, onLine && ((line) => onLine(line, "stdout")));
  const err = new OutputTail(max, onLine && ((line) => onLine(line, "stderr")));
  child.stdout?.on("data", options.onStdout ?? ((chunk: Buffer) => out.push(chunk)));
  child.stderr?.on("data", (chunk: Buffer) => err.push(chunk));

  const closed = closing(child, file);
  const ending = await guarded(child, closed, options);
  out.end();
  err.end();
  if (ending.why === "aborted") throw aborted(file, options.signal?.reason);
  if (ending.why === "timeout") {
    throw new BulkheadError("TIMEOUT", { what: `${file} did not end within ${options.timeoutMs} ms` });
  }
  const { exitCode, signalCode } = child;
  const result = { exitCode, signal: signalCode, stdout: out.text(), stderr: err.text() };
  return { ...result, truncated: out.truncated || err.truncated };
}

export interface CheckedOptions extends ProgramOptions {
  readonly failure: ErrorCode;
  readonly next?: string;
  /** What it is called when it fails, where the first of `argv` only starts it. */
  readonly name?: string;
}

/**
 * As `runProgram`, and any end but exit code 0 is an error of the given code, with the last lines of its output as why.
 */
export async function runChecked(argv: readonly string[], options: CheckedOptions): Promise<ProgramResult> {
  const result = await runProgram(argv, options);
  if (result.exitCode === 0) return result;
  const tail = (result.stderr.trim() || result.stdout.trim()).split("\n").slice(-FAILURE_TAIL_LINES);
  throw new BulkheadError(options.failure, {
    what: `${options.name ?? argv[0]} ended with ${result.signal ?? `exit code ${result.exitCode}`}`,
    ...(tail[0] === "" ? {} : { why: tail.at(-1) ?? "" }),
    ...(options.next === undefined ? {} : { next: options.next }),
    details: { argv: [...argv], output: tail.join("\n") },
  });
}

function aborted(file: string, cause?: unknown): BulkheadError {
  return new BulkheadError("ABORTED", { what: `${file} was stopped before it ended`, cause });
}

function closing(child: ChildProcess, file: string): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once("close", () => resolve());
    child.once("error", (cause: NodeJS.ErrnoException) => {
      // Emitted for a failing kill too; only a child that never started has no pid.
      if (child.pid !== undefined) return;
      const missing = cause.code === "ENOENT";
      reject(
        new BulkheadError("HOST_UNSUPPORTED", {
          what: missing ? `program "${file}" is not installed` : `program "${file}" cannot be started`,
          ...(missing ? {} : { why: cause.message }),
          next: `install ${file} and try again`,
          cause,
        }),
      );
    });
  });
}

async function guarded(child: ChildProcess, closed: Promise<void>, options: ProgramOptions): Promise<Ending> {
  let ending: Ending = { why: "exit" };
  let final: NodeJS.Timeout | undefined;
  const stop = (why: "timeout" | "aborted"): void => {
    if (ending.why !== "exit" || child.exitCode !== null || child.signalCode !== null) return;
    ending = { why };
    killGroup(child, "SIGTERM");
    final = setTimeout(() => killGroup(child, "SIGKILL"), KILL_GRACE_MS);
  };
  const onAbort = (): void => stop("aborted");
  const timer = setTimeout(() => stop("timeout"), options.timeoutMs);
  options.signal?.addEventListener("abort", onAbort, { once: true });
  try {
    await closed;
    return ending;
  } finally {
    clearTimeout(timer);
    clearTimeout(final);
    options.signal?.removeEventListener("abort", onAbort);
    if (ending.why !== "exit") killGroup(child, "SIGKILL");
  }
}

function killGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, signal);
  } catch {
    // The group is already empty.
  }
}
