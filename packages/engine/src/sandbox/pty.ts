import type { Readable, Writable } from "node:stream";
import type { Inside } from "./calls.ts";
import { Execution } from "./exec.ts";
import type { Command, ExecOptions, TerminalSize } from "./exec-request.ts";
import type { ExitStatus } from "./exec-result.ts";
import type { SignalInput } from "./signals.ts";

const DEFAULT_SIZE: TerminalSize = { rows: 24, cols: 80 };
const SHELL = ["/bin/sh", "-i"];

export interface PtyOptions
  extends Pick<ExecOptions, "env" | "cwd" | "user" | "signal" | "timeoutMs" | "rlimits">, Partial<TerminalSize> {
  /** Default: an interactive `/bin/sh`. */
  readonly cmd?: Command;
}

/** A process at a terminal. Ending `input` sends end-of-transmission; destroying `output` discards what follows. */
export interface Pty {
  readonly input: Writable;
  readonly output: Readable;
  readonly pid: Promise<number>;
  readonly exit: Promise<ExitStatus>;
  resize(rows: number, cols: number): void;
  kill(signal?: SignalInput): void;
}

/** Resolves when the process has started. */
export async function openPty(inside: Inside, options: PtyOptions): Promise<Pty> {
  const { cmd, rows, cols, ...rest } = options;
  const pty = { rows: rows ?? DEFAULT_SIZE.rows, cols: cols ?? DEFAULT_SIZE.cols };
  const execution = new Execution(inside, { kind: "exec", command: cmd ?? SHELL }, { ...rest, pty, stdin: true });
  await execution.pid;
  return {
    input: execution.stdin,
    output: execution.stdout,
    pid: execution.pid,
    exit: execution.exit,
    resize: (toRows, toCols) => execution.resize({ rows: toRows, cols: toCols }),
    kill: (signal) => execution.kill(signal),
  };
}
