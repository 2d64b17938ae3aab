import type { Size } from "./terminal.ts";

export interface Ended {
  /** Exit code, 128 + n when signal n ended it. */
  readonly code: number;
  /** Name of the signal that ended it. */
  readonly signal: string | null;
}

/** What `run` needs of a process inside; the engine's own object is wider. */
export interface Program {
  readonly stdout: AsyncIterable<Uint8Array>;
  /** Null with a terminal, where both are one. */
  readonly stderr: AsyncIterable<Uint8Array> | null;
  /** Resolves when the next chunk is welcome. Rejects when the program reads no more. */
  write(chunk: Uint8Array): Promise<void>;
  endInput(): Promise<void>;
  signal(name: NodeJS.Signals): Promise<void>;
  resize(size: Size): Promise<void>;
  readonly ended: Promise<Ended>;
}
