import { BulkheadError, type ErrorCode } from "@bulkhead/contract";
import type { Instance } from "../drivers/driver.ts";

/** How a sandbox's first process ended. Without code and signal nobody knows: the keeper itself is gone. */
export interface KeeperEnded {
  readonly instance: string;
  readonly code: number | null;
  readonly signal: number | null;
  /** The kernel's out-of-memory killer struck in the sandbox at least once. */
  readonly oomKilled: boolean;
  /** The end of what the sandbox wrote to its diagnostics, at most 16 KiB. */
  readonly log: string;
}

/** What the host's control groups have counted of one sandbox since they were last looked at. */
export interface KeeperLimit {
  readonly instance: string;
  /** Whom the kernel killed for want of memory, by host pid; null where it did not say. */
  readonly killed: readonly {
    readonly pid: number | null;
    /** Chosen by the program: untrusted. */
    readonly command: string | null;
    /** The sandbox's first process, which ends the sandbox. */
    readonly isFirst: boolean;
  }[];
  /** Programs were refused a process. */
  readonly refused: boolean;
  /** Volumes of the sandbox that have no room left, and their sizes. */
  readonly full: readonly { readonly volume: string; readonly bytes: number }[];
}

/** How often and for how long a sandbox had to wait at its limit on processor time. */
export interface Throttled {
  /** Of 100 ms each. */
  readonly throttledPeriods: number;
  readonly throttledUs: number;
}

type Fields = Readonly<Record<string, unknown>>;

export type KeeperLine = (Fields & { readonly id: number }) | (Fields & { readonly event: string });

const broken = (text: string): BulkheadError =>
  new BulkheadError("KEEPER_FAILED", {
    what: `the keeper said something this engine cannot read: ${text.slice(0, 200)}`,
    next: "build the keeper from the same source as the engine",
  });

function fields(value: unknown): Fields {
  if (typeof value !== "object" || value === null) throw broken(JSON.stringify(value));
  return value as Fields;
}

function string(from: Fields, name: string): string {
  const value = from[name];
  if (typeof value !== "string") throw broken(JSON.stringify(from));
  return value;
}

function number(from: Fields, name: string): number {
  const value = from[name];
  if (typeof value !== "number") throw broken(JSON.stringify(from));
  return value;
}

const maybeNumber = (from: Fields, name: string): number | null => (from[name] == null ? null : number(from, name));

export function readLine(text: string): KeeperLine {
  const line = fields(JSON.parse(text));
  if (typeof line["event"] === "string") return { ...line, event: line["event"] };
  return { ...line, id: number(line, "id") };
}

/** Errors of the system that mean the host has run out of something rather than that a runtime is broken. */
const RESOURCE_ERRORS: ReadonlyMap<string, string> = new Map([
  ["ENOSPC", "there is no room left where it is made: bytes, files, or the kernel's own limit on such objects"],
  ["EDQUOT", "the quota of its owner is used up"],
  ["ENOMEM", "the host has no memory left for it"],
  ["EMFILE", "the keeper has as many files open as its limit allows"],
  ["ENFILE", "as many files are open on the host as its kernel allows"],
  ["EAGAIN", "the host allows no more processes or namespaces"],
]);

/** Said of a volume alone. */
const VOLUME_ERRORS: ReadonlyMap<string, ErrorCode> = new Map([
  ["EWOULDBLOCK", "VOLUME_IN_USE"],
  ["ENOENT", "VOLUME_NOT_FOUND"],
  ["EUCLEAN", "VOLUME_INVALID"],
]);

function codeFor(errno: string | null): ErrorCode {
  if (errno === "ETIMEDOUT") return "TIMEOUT";
  return errno !== null && RESOURCE_ERRORS.has(errno) ? "HOST_RESOURCE" : "RUNTIME_FAILED";
}

function readError(value: unknown): BulkheadError {
  const error = fields(value);
  const errno = error["errno"] == null ? null : string(error, "errno");
  const step = maybeNumber(error, "step");
  const op = error["op"] == null ? null : string(error, "op");
  const stderr = string(error, "stderr").trim();
  const why = stderr === "" ? RESOURCE_ERRORS.get(errno ?? "") : stderr.split("\n").slice(-3).join("; ");
  const message = string(error, "message");
  const ofVolume = op === "volume" ? VOLUME_ERRORS.get(errno ?? "") : undefined;
  return new BulkheadError(ofVolume ?? codeFor(errno), {
    // A volume's state is for the caller to put right: no matter which step met it.
    what: step === null || ofVolume !== undefined ? message : `step ${step} (${op}) failed: ${message}`,
    ...(why === undefined ? {} : { why }),
    details: { step, op, errno, stderr },
  });
}

export function readAnswer(
  line: Fields,
): { readonly ok: true; readonly value: unknown } | { readonly ok: false; readonly error: BulkheadError } {
  if (line["error"] !== undefined) return { ok: false, error: readError(line["error"]) };
  return { ok: true, value: line["ok"] };
}

export function readHello(value: unknown): { version: string; generation: number; engine: string; pid: number } {
  const from = fields(value);
  return {
    version: string(from, "version"),
    generation: number(from, "generation"),
    engine: string(from, "engine"),
    pid: number(from, "pid"),
  };
}

export function readInstance(value: unknown): Instance {
  const from = fields(value);
  return {
    id: string(from, "id"),
    dir: string(from, "dir"),
    idBase: number(from, "idBase"),
    cgroup: string(from, "cgroup"),
  };
}

export function readKhz(value: unknown): number {
  return number(fields(value), "khz");
}

export function readFileDigest(value: unknown): { bytes: number; digest: string } {
  const from = fields(value);
  return { bytes: number(from, "bytes"), digest: string(from, "digest") };
}

export function readOutput(value: unknown): {
  code: number | null;
  signal: number | null;
  stdout: string;
  stderr: string;
} {
  const from = fields(value);
  return {
    code: maybeNumber(from, "code"),
    signal: maybeNumber(from, "signal"),
    stdout: string(from, "stdout"),
    stderr: string(from, "stderr"),
  };
}

export function readEnded(line: Fields): KeeperEnded {
  return {
    instance: string(line, "instance"),
    code: maybeNumber(line, "code"),
    signal: maybeNumber(line, "signal"),
    oomKilled: line["oomKilled"] === true,
    log: string(line, "log"),
  };
}

export function readLimit(line: Fields): KeeperLimit {
  const { killed, full } = line;
  if (!Array.isArray(killed) || !Array.isArray(full)) throw broken(JSON.stringify(line));
  return {
    instance: string(line, "instance"),
    killed: killed.map((one: unknown) => {
      const from = fields(one);
      const command = from["command"] == null ? null : string(from, "command");
      return { pid: maybeNumber(from, "pid"), command, isFirst: from["isFirst"] === true };
    }),
    refused: line["refused"] === true,
    full: full.map((one: unknown) => {
      const from = fields(one);
      return { volume: string(from, "volume"), bytes: number(from, "bytes") };
    }),
  };
}

export function readThrottled(value: unknown): Throttled {
  const from = fields(value);
  return { throttledPeriods: number(from, "throttledPeriods"), throttledUs: number(from, "throttledUs") };
}

export function readTimes(value: unknown): readonly number[] {
  const times = fields(value)["doneAtUs"];
  if (!Array.isArray(times) || !times.every((time) => typeof time === "number")) throw broken(JSON.stringify(value));
  return times;
}
