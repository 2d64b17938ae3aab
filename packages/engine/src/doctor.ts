import { BulkheadError, ERRORS, LEVELS, parseSpec, type Level } from "@bulkhead/contract";
import type { Driver, ImageFiles, Runtime } from "./drivers/driver.ts";
import type { HostFacts } from "./host/facts.ts";
import { fixedRelease, openCves } from "./host/known-cves.ts";
import { emptyImage } from "./host/probe.ts";
import { securityNames } from "./host/security-modules.ts";
import { resolveSpec } from "./policy/defaults.ts";
import { chooseLayer } from "./policy/layer.ts";
import type { Candidate } from "./policy/resolve.ts";
import { openSandbox } from "./sandbox/open.ts";
import type { Keeper } from "./system/keeper.ts";

/** A driver's sandbox that has not started by then does not work, whatever it is doing. */
const PROBE_TIMEOUT_MS = 20_000;

export type DriverReport =
  | {
      readonly state: "works";
      readonly driver: string;
      readonly runtime: Runtime;
      /** From plan to an answer of the agent inside. */
      readonly startMs: number;
      readonly notes: readonly string[];
    }
  /** `unavailable`: the runtime is not there. `failed`: it is, but no sandbox could be started. One line each. */
  | {
      readonly state: "unavailable" | "failed";
      readonly driver: string;
      readonly reason: string;
      readonly remedy: string;
    };

export interface LevelReport {
  readonly level: Level;
  readonly works: boolean;
  /** Why the level cannot be had, when it has no driver at all. */
  readonly reason: string | null;
  readonly remedy: string | null;
  readonly drivers: readonly DriverReport[];
}

export interface DoctorReport {
  readonly host: {
    readonly kernelRelease: string;
    readonly arch: string;
    readonly cpus: number;
    readonly memoryBytes: number;
    readonly cgroup: string;
    /** By name, with version or mode. */
    readonly securityModules: readonly string[];
  };
  readonly levels: readonly LevelReport[];
}

export interface Examination {
  readonly host: HostFacts;
  readonly candidates: readonly Candidate<Driver>[];
  readonly keeper: Keeper;
  readonly signal?: AbortSignal;
}

/** Starts a sandbox, lets its agent answer and ends it. */
async function probe(driver: Driver, runtime: Runtime, image: ImageFiles, from: Examination): Promise<number> {
  const { host, keeper } = from;
  const timeout = AbortSignal.timeout(PROBE_TIMEOUT_MS);
  const signal = from.signal === undefined ? timeout : AbortSignal.any([from.signal, timeout]);
  const choice = { level: driver.level, reasons: ["doctor tries every driver"] };
  const spec = { ...resolveSpec(parseSpec({}), choice, host, {}, driver.defaultMemoryBytes), mounts: [], makes: [] };
  const layer = await chooseLayer(spec, driver.capabilities, host);
  const plan = driver.plan({ ...spec, ...layer }, runtime, image, host);
  const started = performance.now();
  const held = { [Symbol.asyncDispose]: async () => {} };
  await using box = await openSandbox({ keeper, driver, plan, image, host, signal, held });
  await box.ping({ signal });
  return performance.now() - started;
}

function failed(driver: string, error: unknown): DriverReport {
  if (!(error instanceof BulkheadError)) {
    return { state: "failed", driver, reason: String(error), remedy: ERRORS.INTERNAL.next };
  }
  const { why, next } = ERRORS[error.code];
  // The registry's own words for these would send the reader back here.
  const reason = error.why === why ? error.message : `${error.message}: ${error.why}`;
  const remedy =
    error.next === next ? "set BULKHEAD_DEBUG=1 and run something at this level for the whole trace" : error.next;
  return { state: "failed", driver, reason, remedy };
}

async function vulnerabilities(runtime: Runtime): Promise<readonly string[]> {
  const cves = await openCves(runtime);
  if (cves.length === 0) return [];
  const { name, version } = runtime;
  const upgrade = `${name} ${fixedRelease(name)} has the fixes; BULKHEAD_REFUSE_KNOWN_CVES=1 refuses what has not`;
  return [`${name} ${version} has known vulnerabilities: ${cves.join(", ")} (${upgrade})`];
}

async function report(candidate: Candidate<Driver>, image: ImageFiles, from: Examination): Promise<DriverReport> {
  const { driver, availability } = candidate;
  if (!availability.ok) {
    return { state: "unavailable", driver: driver.name, reason: availability.reason, remedy: availability.remedy };
  }
  const { runtime } = availability;
  const notes = [...availability.notes, ...(await vulnerabilities(runtime))];
  try {
    return { state: "works", driver: driver.name, runtime, startMs: await probe(driver, runtime, image, from), notes };
  } catch (error) {
    if (from.signal?.aborted === true) throw error;
    return failed(driver.name, error);
  }
}

/** One driver after the other, so that the times mean something. */
export async function examine(from: Examination): Promise<DoctorReport> {
  const { host } = from;
  // The agent is static and brings itself, so an empty directory is image enough, and no image need be built first.
  const image = await emptyImage(host);
  const levels: LevelReport[] = [];
  for (const level of LEVELS) {
    const drivers: DriverReport[] = [];
    for (const candidate of from.candidates) {
      if (candidate.driver.level === level) drivers.push(await report(candidate, image, from));
    }
    const none = drivers.length === 0;
    levels.push({
      level,
      works: drivers.some((driver) => driver.state === "works"),
      reason: none ? `this build of Bulkhead has no ${level} driver` : null,
      remedy: none ? "use a level that works; nothing installed on this host would change it" : null,
      drivers,
    });
  }
  return {
    host: {
      kernelRelease: host.kernelRelease,
      arch: host.arch,
      cpus: host.cpus,
      memoryBytes: host.memoryBytes,
      cgroup: host.cgroup.mode,
      securityModules: securityNames(host.security),
    },
    levels,
  };
}
