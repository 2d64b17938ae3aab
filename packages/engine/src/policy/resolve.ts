import {
  BulkheadError,
  HARDWARE_LEVELS,
  LEVELS,
  TRUST_FLOOR,
  satisfies,
  stronger,
  type Isolation,
  type Level,
  type MountPlan,
  type Spec,
  type Trust,
} from "@bulkhead/contract";
import type { Program } from "./program.ts";
import type { Availability, Runtime } from "../drivers/driver.ts";
import type { ChosenLayer } from "./layer.ts";

/** A spec with its level chosen and every limit made definite. */
export interface ResolvedSpec
  extends
    Omit<Spec, "mounts" | "secrets" | "entrypoint" | "stopSignal" | "stopTimeoutMs" | keyof ChosenLayer>,
    ChosenLayer {
  /** As they were found on this host. */
  readonly mounts: readonly MountPlan[];
  readonly level: Level;
  /** Why this level, in words. */
  readonly levelReason: string;
  readonly user: string;
  readonly memoryBytes: number;
  readonly pids: number;
  readonly hostname: string;
  readonly program: Program;
  /** Directories that the image promises and does not have. */
  readonly makes: readonly string[];
}

/** A driver and what it found on this host. Of several at one level the first that is available is taken. */
export interface Candidate<D extends { readonly level: Level; readonly name: string }> {
  readonly driver: D;
  readonly availability: Availability;
}

export interface Choice<D> {
  readonly driver: D;
  readonly runtime: Runtime;
  readonly level: Level;
  /** Reasons for the level, one clause each, in the order they were weighed. */
  readonly reasons: readonly string[];
}

export interface LevelRequest {
  readonly isolation?: Isolation | undefined;
  readonly trust?: Trust | undefined;
  readonly hardware: boolean;
}

/** What a request amounts to: the weakest level it admits, whether exactly that one, and whether the CPU must draw it. */
interface Demand {
  readonly floor: Level;
  readonly exact: boolean;
  readonly hardware: boolean;
  readonly reasons: readonly string[];
}

/** With nothing said the code counts as untrusted: a caller who forgets to say must not get the weakest boundary. */
const TRUST_WHEN_NOTHING_IS_SAID: Trust = "untrusted";

function refuseWeaker(level: Level, trust: Trust): never {
  const floor = TRUST_FLOOR[trust].level;
  throw new BulkheadError("POLICY_REFUSED", {
    what: `isolation "${level}" is refused for trust "${trust}"`,
    why: `trust "${trust}" admits nothing weaker than ${floor}`,
    next: `ask for isolation "${floor}" or stronger, or leave isolation out`,
    details: { level, trust, floor },
  });
}

function refuseWithoutHardware(level: Level): never {
  throw new BulkheadError("POLICY_REFUSED", {
    what: `isolation "${level}" is refused because hardware virtualisation is required`,
    why: `only ${HARDWARE_LEVELS.join(", ")} can be drawn by the CPU's virtualisation`,
    next: `ask for isolation "${HARDWARE_LEVELS[0]}", or leave isolation out`,
    details: { level, hardware: true },
  });
}

function demand(request: LevelRequest): Demand {
  const { isolation } = request;
  const silent = isolation === undefined && request.trust === undefined;
  const trust = silent ? TRUST_WHEN_NOTHING_IS_SAID : request.trust;
  const trustFloor = trust === undefined ? undefined : TRUST_FLOOR[trust];
  const hardware = request.hardware || trustFloor?.hardware === true;
  const reasons: string[] = [];
  if (silent) reasons.push(`neither isolation nor trust was stated, so the code counts as ${trust}`);
  if (trust !== undefined) reasons.push(`trust ${trust} needs at least ${trustFloor?.level}`);
  if (hardware) reasons.push("hardware virtualisation is required");
  if (typeof isolation === "string") {
    if (trust !== undefined && trustFloor !== undefined && !satisfies(isolation, trustFloor.level)) {
      refuseWeaker(isolation, trust);
    }
    if (hardware && !HARDWARE_LEVELS.includes(isolation)) refuseWithoutHardware(isolation);
    return { floor: isolation, exact: true, hardware, reasons: [...reasons, `isolation ${isolation} was asked for`] };
  }
  if (isolation !== undefined) reasons.push(`at least ${isolation.atLeast} was asked for`);
  const floor = stronger(isolation?.atLeast ?? "container", trustFloor?.level ?? "container");
  return { floor, exact: false, hardware, reasons };
}

type Tried = { readonly level: Level; readonly reason: string; readonly remedy: string };

/** Every driver's own reason is kept: with two runtimes for a level, either remedy would do. */
function missing(level: Level, all: readonly Candidate<{ level: Level; name: string }>[]): Tried {
  const failures = all.flatMap(({ driver, availability }) =>
    driver.level === level && !availability.ok ? [{ name: driver.name, ...availability }] : [],
  );
  if (failures.length === 0) {
    return { level, reason: `this build of Bulkhead has no ${level} driver`, remedy: "" };
  }
  const named = failures.length > 1;
  return {
    level,
    reason: failures.map(({ name, reason }) => (named ? `${name}: ${reason}` : reason)).join("; "),
    remedy: [...new Set(failures.map(({ remedy }) => remedy))].join(", or "),
  };
}

function refuseUnavailable(
  wanted: Demand,
  tried: readonly Tried[],
  candidates: readonly Candidate<{ level: Level; name: string }>[],
): never {
  const there = LEVELS.filter((level) => candidates.some((c) => c.driver.level === level && c.availability.ok));
  const list = there.length === 0 ? "none" : there.join(", ");
  const remedies = tried.map(({ remedy }) => remedy).filter((remedy) => remedy !== "");
  const available = `levels available on this host: ${list}`;
  const what = wanted.exact
    ? `isolation "${wanted.floor}" is not available on this host`
    : `no isolation level of at least "${wanted.floor}" is available on this host`;
  throw new BulkheadError("LEVEL_UNAVAILABLE", {
    what: wanted.hardware ? `${what} with hardware virtualisation` : what,
    why: [...new Set(tried.map(({ reason }) => reason))].join("; "),
    next: remedies.length > 0 ? `${remedies.join(", or ")} (${available})` : `${available}; see bulkhead doctor`,
    details: { floor: wanted.floor, exact: wanted.exact, hardware: wanted.hardware, available: there },
  });
}

/**
 * Chooses the driver for a request: the exact level, or the fastest (which is the weakest) that satisfies the floor.
 * A level that cannot be had is never replaced by a weaker one.
 * @throws BulkheadError POLICY_REFUSED when the request contradicts itself, LEVEL_UNAVAILABLE when this host cannot.
 */
export function resolveLevel<
  D extends { readonly level: Level; readonly name: string; readonly capabilities: { readonly hardware: boolean } },
>(request: LevelRequest, candidates: readonly Candidate<D>[]): Choice<D> {
  const wanted = demand(request);
  const admitted = LEVELS.filter((level) => (wanted.exact ? level === wanted.floor : satisfies(level, wanted.floor)));
  const tried: Tried[] = [];
  for (const level of admitted) {
    if (wanted.hardware && !HARDWARE_LEVELS.includes(level)) continue;
    for (const { driver, availability } of candidates) {
      if (driver.level !== level || !availability.ok) continue;
      if (wanted.hardware && !driver.capabilities.hardware) {
        const [note] = availability.notes;
        const reason = `${driver.name} has no hardware virtualisation here`;
        tried.push({ level, reason: note === undefined ? reason : `${reason}: ${note}`, remedy: "" });
        continue;
      }
      const skipped = tried.map((t) => `${t.level} would be faster but is not available: ${t.reason}`);
      const chosen = wanted.exact ? [] : [`${level} is the fastest level available that satisfies this`];
      const reasons = [...wanted.reasons, ...skipped, ...chosen];
      return { driver, runtime: availability.runtime, level, reasons };
    }
    if (!candidates.some(({ driver, availability }) => driver.level === level && availability.ok)) {
      tried.push(missing(level, candidates));
    }
  }
  return refuseUnavailable(wanted, tried, candidates);
}
