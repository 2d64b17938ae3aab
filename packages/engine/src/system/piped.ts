import { spawn, type ChildProcess } from "node:child_process";
import type { Readable, Writable } from "node:stream";
import { BulkheadError } from "@bulkhead/contract";

const STDERR_TAIL_CHARACTERS = 4096;

/** A program that is spoken to while it runs. Disposing of it kills it and waits for its end. */
export interface PipedProgram extends AsyncDisposable {
  readonly stdin: Writable;
  readonly stdout: Readable;
  /** Resolves with the end of its standard error once it has ended; never rejects. */
  readonly ended: Promise<{ readonly code: number | null; readonly stderr: string }>;
}

/** Starts a program that ends with this process, however this process ends. */
export function startPiped(argv: readonly string[]): PipedProgram {
  const child: ChildProcess = spawn("setpriv", ["--pdeathsig", "KILL", ...argv], {
    stdio: ["pipe", "pipe", "pipe"],
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
    detached: true,
  });
  const { stdin, stdout, stderr } = child;
  if (stdin === null || stdout === null) throw new BulkheadError("INTERNAL", { what: "a pipe is missing" });
  let text = "";
  stderr?.on("data", (chunk: Buffer) => (text = (text + chunk.toString()).slice(-STDERR_TAIL_CHARACTERS)));
  // Writing to a program that has ended is found out by its end.
  stdin.on("error", () => {});
  const ended = new Promise<{ code: number | null; stderr: string }>((resolve) => {
    child.once("error", (error) => resolve({ code: null, stderr: error.message }));
    child.once("close", (code) => resolve({ code, stderr: text }));
  });
  const end = async (): Promise<void> => {
    child.kill("SIGKILL");
    await ended;
  };
  return { stdin, stdout, ended, [Symbol.asyncDispose]: end };
}
