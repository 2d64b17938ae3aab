import type { Execution } from "@bulkhead/engine";
import type { Size } from "./terminal.ts";

export interface Ended {
  /** Exit code, 128 + n when signal n ended it. */
  readonly code: number;
  /** Name of the signal that ended it. */
  readonly signal: string | null;
}

/** What `run` needs of a process inside. */
export interface Program {
  readonly stdout: AsyncIterable<Uint8Array>;
  /** Null with a terminal, where both are one. */
  readonly stderr: AsyncIterable<Uint8Array> | null;
  /** Resolves when the next chunk is welcome. Rejects when the program reads no more. */
  write(chunk: Uint8Array): Promise<void>;
  endInput(): Promise<void>;
  /** By its name, real-time signals too. */
  signal(name: string): void;
  resize(size: Size): void;
  readonly ended: Promise<Ended>;
}

/**
 * What a terminal sends goes to every process of the job at home, so it does here; a signal sent by kill(1) goes to the
 * one program, which may have its own way to end its children.
 */
export const TO_THE_GROUP: ReadonlySet<string> = new Set(["SIGINT", "SIGQUIT", "SIGHUP", "SIGKILL"]);

export function programOf(execution: Execution, terminal: boolean): Program {
  return {
    stdout: execution.stdout,
    stderr: terminal ? null : execution.stderr,
    write: (chunk) =>
      new Promise((done, failed) => {
        execution.stdin.write(chunk, (error) => (error ? failed(error) : done()));
      }),
    endInput: () => new Promise((done) => void execution.stdin.end(() => done())),
    signal: (name) => execution.kill(name, { group: TO_THE_GROUP.has(name) }),
    resize: (size) => execution.resize(size),
    ended: execution.exit.then((status) => ({ code: status.exitCode, signal: status.signal })),
  };
}
