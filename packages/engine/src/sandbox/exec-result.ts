import { BulkheadError } from "@bulkhead/contract";
import { ByteQueue } from "../channel/byte-queue.ts";
import type { Exited } from "../channel/wire.gen.ts";
import { safeNumber } from "./errors.ts";
import { signalName } from "./signals.ts";

/** How a process ended. Times in milliseconds, sizes in bytes. */
export interface ExitStatus {
  /** 0 to 255; 128 + number when a signal ended it, as shells have it. */
  readonly exitCode: number;
  /** The signal that ended it, or null. */
  readonly signal: string | null;
  readonly coreDumped: boolean;
  readonly userMs: number;
  readonly systemMs: number;
  readonly maxRssBytes: number;
}

const SIGNALLED = 128;

export function toExitStatus(exited: Exited): ExitStatus {
  return {
    exitCode: exited.signal === 0 ? exited.code & 0xff : SIGNALLED + exited.signal,
    signal: exited.signal === 0 ? null : signalName(exited.signal),
    coreDumped: exited.coreDumped,
    userMs: safeNumber(exited.userMs),
    systemMs: safeNumber(exited.systemMs),
    maxRssBytes: safeNumber(exited.maxRssBytes),
  };
}

export class ExecResult {
  readonly pid: number;
  readonly status: ExitStatus;
  /** From the request to the process's exit. */
  readonly durationMs: number;
  /** Empty when `.stdout` was read as a stream. */
  readonly stdout: Buffer;
  readonly stderr: Buffer;

  constructor(pid: number, status: ExitStatus, durationMs: number, stdout: Buffer, stderr: Buffer) {
    this.pid = pid;
    this.status = status;
    this.durationMs = durationMs;
    this.stdout = stdout;
    this.stderr = stderr;
  }

  get exitCode(): number {
    return this.status.exitCode;
  }

  get signal(): string | null {
    return this.status.signal;
  }

  get ok(): boolean {
    return this.status.exitCode === 0;
  }

  /** stdout as UTF-8; bytes that are none become U+FFFD. */
  get text(): string {
    return this.stdout.toString("utf8");
  }

  get errorText(): string {
    return this.stderr.toString("utf8");
  }
}

const TAIL_BYTES = 2_000;

/** Gathers one lane up to a limit. */
export class Collector {
  readonly #queue = new ByteQueue();
  readonly #maxBytes: number;
  readonly #full: () => void;
  #over = false;

  /** @param full called once, by the first byte beyond the limit. */
  constructor(maxBytes: number, full: () => void) {
    this.#maxBytes = maxBytes;
    this.#full = full;
  }

  add(piece: Buffer): void {
    if (this.#over) return;
    if (this.#queue.length + piece.length > this.#maxBytes) {
      this.#over = true;
      this.#queue.clear();
      this.#full();
      return;
    }
    this.#queue.append(piece);
  }

  take(): Buffer {
    return this.#queue.takeAll();
  }
}

/** The end of an output, for an error's details. */
export function tail(output: Buffer): string {
  return output.subarray(-TAIL_BYTES).toString("utf8");
}

export function commandFailed(subject: string, result: ExecResult): BulkheadError {
  const { exitCode, signal } = result;
  return new BulkheadError("COMMAND_FAILED", {
    what: signal === null ? `${subject} exited with ${exitCode}` : `${subject} was ended by ${signal}`,
    details: { pid: result.pid, exitCode, signal, stdout: tail(result.stdout), stderr: tail(result.stderr) },
  });
}
