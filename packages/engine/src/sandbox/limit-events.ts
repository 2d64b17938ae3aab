import { BulkheadError, formatBytes, formatDuration, type Limits } from "@bulkhead/contract";
import { LimitKind, type LimitHit as WireHit } from "../channel/wire.gen.ts";
import type { KeeperLimit } from "../system/keeper.ts";
import { untrustedText } from "./errors.ts";
import type { Killed, LimitHit, LimitName } from "./events.ts";

const UNKNOWN = { what: "process", pid: null, hostPid: null, command: null } as const;

/** What was asked for, in the limit's own unit; 0 where there is no such limit. */
function valueOf(limit: LimitName, limits: Limits): number {
  const values: Readonly<Record<LimitName, number | null>> = {
    memory: limits.memoryBytes,
    pids: limits.pids,
    disk: limits.diskBytes,
    output: limits.outputMaxBytes,
    timeout: limits.timeoutMs,
    idle: limits.idleTimeoutMs,
  };
  return values[limit] ?? 0;
}

export function limitHit(
  limit: LimitName,
  limits: Limits,
  killed: Killed | null,
  toldBy: LimitHit["toldBy"] = "host",
): LimitHit {
  return { kind: "limit-hit", limit, value: valueOf(limit, limits), atMs: Date.now(), killed, toldBy };
}

/** What the host's control groups count, and its file systems. */
export function hitsOfKeeper({ killed, refused, full }: KeeperLimit, limits: Limits): LimitHit[] {
  const kills = killed.map(({ pid, command, isFirst }): Killed => {
    if (isFirst) return { what: "sandbox" };
    return { ...UNKNOWN, hostPid: pid, command: command === null ? null : untrustedText(command) };
  });
  const memory = kills.map((one) => limitHit("memory", limits, one));
  const pids = refused ? [limitHit("pids", limits, null)] : [];
  const volumes = full.map(({ volume, bytes }) => ({ ...limitHit("disk", limits, null), value: bytes, volume }));
  return [...memory, ...pids, ...volumes];
}

/** What the agent sees from inside. */
export function hitOfAgent({ limit, pid, command }: WireHit, limits: Limits): LimitHit {
  if (limit === LimitKind.pids) return limitHit("pids", limits, null, "inside");
  if (limit === LimitKind.disk) return limitHit("disk", limits, null, "inside");
  const name = command.length === 0 ? null : untrustedText(Buffer.from(command).toString("utf8"));
  const killed: Killed = { ...UNKNOWN, pid: pid === 0 ? null : pid, command: name };
  return limitHit("memory", limits, killed, "inside");
}

/** Why everything in a sandbox was ended. */
export function timeIsOver(limit: "timeout" | "idle", ms: number): BulkheadError {
  if (limit === "idle") {
    return new BulkheadError("IDLE_TIMEOUT", {
      what: `the sandbox was idle for ${formatDuration(ms)}`,
      why: "no output, no input and no call in that time; everything in the sandbox was ended",
      details: { limit, idleTimeoutMs: ms },
    });
  }
  return new BulkheadError("TIMEOUT", {
    what: `the time limit of ${formatDuration(ms)} was reached`,
    why: "everything in the sandbox was ended",
    next: "raise the limit, or make the work shorter",
    details: { limit, timeoutMs: ms },
  });
}

/** A program wrote more than it may. `details` hold the ends of what it wrote. */
export function outputIsOver(
  subject: string,
  maxBytes: number,
  details: Readonly<Record<string, unknown>>,
): BulkheadError {
  return new BulkheadError("OUTPUT_LIMIT", {
    what: `${subject} wrote more than ${formatBytes(maxBytes)} and was killed`,
    why: "its output reached the sandbox's limit; what it wrote until then is kept",
    next: "raise the output limit, or have it write less",
    details: { limit: "output", maxBytes, ...details },
  });
}
