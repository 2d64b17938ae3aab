import { execFile } from "node:child_process";
import { BulkheadError } from "@bulkhead/contract";

/** A version line or a short listing; nothing the engine asks of a program is longer. */
const MAX_OUTPUT_BYTES = 64 * 1024;
const DEFAULT_TIMEOUT_MS = 10_000;

export interface ProgramOutput {
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Runs a host program to its end with an empty environment but PATH.
 *
 * @throws BulkheadError RUNTIME_FAILED when it cannot be started, fails, is too slow (10 s) or says too much (64 KiB).
 */
export function runProgram(argv: readonly [string, ...string[]], signal?: AbortSignal): Promise<ProgramOutput> {
  const [path, ...args] = argv;
  const options = {
    encoding: "utf8" as const,
    env: { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" },
    maxBuffer: MAX_OUTPUT_BYTES,
    timeout: DEFAULT_TIMEOUT_MS,
    ...(signal === undefined ? {} : { signal }),
  };
  return new Promise((resolve, reject) => {
    execFile(path, args, options, (cause, stdout, stderr) => {
      if (cause === null) return resolve({ stdout, stderr });
      const why = stderr.trim().split("\n").at(-1) || cause.message;
      reject(new BulkheadError("RUNTIME_FAILED", { what: `${argv.join(" ")} failed`, why, cause }));
    });
  });
}
