import { createHash } from "node:crypto";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import type { Availability, Driver, ImageFiles } from "../drivers/driver.ts";
import { programOf } from "../policy/program.ts";
import type { ResolvedSpec } from "../policy/resolve.ts";
import { startSandbox } from "../sandbox/start.ts";
import type { Keeper } from "../system/keeper.ts";
import type { HostFacts } from "./facts.ts";
import { writeAtomically } from "./file-cache.ts";

const MIB = 1024 * 1024;
/** How long the agent must live to count as started: one that cannot run ends at once. */
const SETTLE_MS = 50;

export interface ProbeOptions {
  readonly driver: Driver;
  readonly host: HostFacts;
  /** Called only when no verdict is stored: a keeper is not started for nothing. */
  readonly keeper: () => Promise<Keeper>;
  readonly signal?: AbortSignal;
}

function probeSpec(driver: Driver): ResolvedSpec {
  return {
    level: driver.level,
    levelReason: "probe",
    hardware: false,
    image: "probe",
    user: "root",
    env: {},
    mounts: [],
    volumes: [],
    network: "none",
    allowSetuid: false,
    hostname: "probe",
    cpus: 1,
    memoryBytes: driver.defaultMemoryBytes ?? 64 * MIB,
    pids: 16,
    diskBytes: MIB,
    diskInodes: 64,
    layer: { backing: driver.capabilities.layerWriter === "guest" ? "file" : "memory", keep: null },
    layerReason: "probe",
    blockDevices: [],
    program: programOf({}, {}),
    makes: [],
  };
}

/** What the verdict depends on: a new boot (modules, kernel, sysctls), runtime, agent or keeper asks again. */
function verdictPath(driver: Driver, runtimeDigest: string, host: HostFacts): string {
  const facts = [driver.name, host.bootId, runtimeDigest, host.digests.agent, host.digests.keeper];
  const key = createHash("sha256").update(JSON.stringify(facts)).digest("hex").slice(0, 16);
  return join(host.paths.state, "cache", `probe-${driver.name.replace("/", "-")}-${key}.json`);
}

/** A directory of its own holds it: what a driver makes of an image lies beside it. */
export async function emptyImage(host: HostFacts): Promise<ImageFiles> {
  const rootfs = join(host.paths.state, "probe", "rootfs");
  // Mount points are made beforehand: a runtime would make them in the writable layer at each start.
  for (const name of ["dev", "proc", "sys", "tmp"]) await mkdir(join(rootfs, name), { recursive: true, mode: 0o755 });
  return { reference: "probe", digest: "0".repeat(64), rootfs, usrBin: false };
}

async function tryStart({ driver, host, keeper, signal }: ProbeOptions, located: Availability): Promise<Availability> {
  if (!located.ok) return located;
  const image = await emptyImage(host);
  const plan = driver.plan(probeSpec(driver), located.runtime, image, host);
  const common = { driver, plan, keeper: await keeper(), image, host };
  await using box = await startSandbox(signal === undefined ? common : { ...common, signal });
  const timer = Promise.withResolvers<null>();
  const handle = setTimeout(() => timer.resolve(null), SETTLE_MS);
  const ended = await Promise.race([box.ended, timer.promise]);
  clearTimeout(handle);
  if (ended === null) return located;
  const how = ended.signal === null ? `code ${ended.code}` : `signal ${ended.signal}`;
  return {
    ok: false,
    reason: `the agent ended at once with ${how}${ended.log === "" ? "" : `: ${ended.log.trim().split("\n").at(-1)}`}`,
    remedy: `run ${located.runtime.path} by hand, or install another version of ${located.runtime.name}`,
  };
}

/**
 * Whether this host can really run `driver`, found by starting a sandbox that holds only the agent. A yes is stored until
 * something it depends on changes; a no is asked again each time, because its cause may be passing.
 *
 * @throws BulkheadError ABORTED, KEEPER_FAILED, HOST_NOT_ROOT: the question could not be asked.
 */
export async function probe(options: ProbeOptions): Promise<Availability> {
  const { driver, host } = options;
  const located = driver.locate(host);
  if (!located.ok) return located;
  if (host.digests.agent === "") {
    return { ok: false, reason: `the agent is not at ${host.paths.agent}`, remedy: "build it: cargo build --release" };
  }
  const path = verdictPath(driver, located.runtime.digest, host);
  const stored = await readFile(path, "utf8").catch(() => "");
  if (stored === "yes") return located;
  let verdict: Availability;
  try {
    verdict = await tryStart(options, located);
  } catch (error) {
    if (!(error instanceof BulkheadError) || error.code !== "RUNTIME_FAILED") throw error;
    const reason = error.why === undefined ? error.message : `${error.message}: ${error.why}`;
    verdict = { ok: false, reason, remedy: `run ${located.runtime.path} by hand, or install another version` };
  }
  if (verdict.ok) await writeAtomically(path, "yes").catch(() => undefined);
  return verdict;
}
