import { join } from "node:path";
import type { Runtime } from "../drivers/driver.ts";
import { readConfig, type Config } from "./config.ts";
import { FileCache } from "./file-cache.ts";
import { findRuntimes } from "./runtimes.ts";

export interface Directories {
  /** Lasting state: images, runtimes, caches. Absolute. Default: BULKHEAD_STATE, or /var/lib/bulkhead. */
  readonly state?: string;
  /** Run state, lost at reboot. Absolute. Default: BULKHEAD_RUN, or /run/bulkhead. */
  readonly run?: string;
  /** Runtimes with known vulnerabilities that are not fixed in them are not used. Default: BULKHEAD_REFUSE_KNOWN_CVES, or no. */
  readonly refuseKnownCves?: boolean;
}

/** The configuration of this process under what the caller sets itself. */
export function configOf(options: Directories): Config {
  const config = readConfig();
  return {
    ...config,
    state: options.state ?? config.state,
    run: options.run ?? config.run,
    refuseKnownCves: options.refuseKnownCves ?? config.refuseKnownCves,
  };
}

export function stateDirectory(options: Directories): string {
  return configOf(options).state;
}

/** By name; null where there is none or it does not run. Needs no root and changes nothing. */
export async function locateRuntimes(options: Directories): Promise<Readonly<Record<string, Runtime | null>>> {
  const { state, searchPath } = configOf(options);
  const cache = await FileCache.open(join(state, "cache", "files.json"));
  const found = await findRuntimes(state, searchPath, cache);
  return Object.fromEntries(
    Object.entries(found).map(([name, one]) => [name, one.kind === "found" ? one.runtime : null]),
  );
}
