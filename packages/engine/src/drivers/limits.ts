import { BulkheadError, type Limits } from "@bulkhead/contract";
import type { HostFacts } from "../host/facts.ts";
import type { ResolvedSpec } from "../policy/resolve.ts";

import { OPEN_FILES } from "./container/hardening.ts";

export const limitsDisk = (spec: ResolvedSpec): boolean =>
  spec.diskIops !== undefined || spec.diskBytesPerSecond !== undefined;

/** What a spec's limits are at every level. */
export function commonLimits(
  spec: ResolvedSpec,
): Omit<Limits, "cpus" | "diskBytes" | "diskInodes" | "diskThrottle" | "openFiles"> {
  return {
    memoryBytes: spec.memoryBytes,
    pids: spec.pids,
    timeoutMs: spec.timeoutMs ?? null,
    cpuWeight: spec.cpuWeight ?? null,
    diskIops: spec.diskIops ?? null,
    diskBytesPerSecond: spec.diskBytesPerSecond ?? null,
    idleTimeoutMs: spec.idleTimeoutMs ?? null,
    outputMaxBytes: spec.outputMaxBytes ?? null,
  };
}

/** Where process 1 is a process of this host: raising its limits needs CAP_SYS_RESOURCE, which nothing here rests on. */
function openFiles(asked: number | undefined, host: HostFacts): number {
  const hard = host.rlimits["RLIMIT_NOFILE"]?.hard ?? OPEN_FILES;
  if (asked === undefined || asked <= hard) return asked ?? Math.min(OPEN_FILES, hard);
  throw new BulkheadError("LIMIT_UNSUPPORTED", {
    what: `${asked} open files cannot be had at this level`,
    why: `this process's own hard limit is ${hard}, and a sandbox cannot have more`,
    next: `ask for ${hard} or fewer, or raise it with ulimit -Hn or LimitNOFILE=`,
    details: { limit: "open-files", asked, hard },
  });
}

/** Limits at the levels that an OCI runtime makes and the host's control groups hold. @throws BulkheadError LIMIT_UNSUPPORTED */
export function ociLimits(spec: ResolvedSpec, host: HostFacts): Limits {
  return {
    ...commonLimits(spec),
    cpus: spec.cpus ?? null,
    diskBytes: spec.diskBytes,
    diskInodes: spec.diskInodes,
    diskThrottle: limitsDisk(spec) ? { by: "cgroup", devices: spec.blockDevices } : null,
    openFiles: openFiles(spec.openFiles, host),
  };
}

/** Where the writable layer is, and what a limit on disk traffic binds. */
export function diskReasons(spec: ResolvedSpec): string[] {
  if (!limitsDisk(spec)) return [spec.layerReason];
  const devices = spec.blockDevices.map(({ major, minor }) => `${major}:${minor}`).join(", ") || "none";
  const whose = spec.layer.backing === "file" ? "the image, the writable layer" : "the image";
  return [spec.layerReason, `disk traffic is that of ${whose} and the mounts, limited on block devices ${devices}`];
}
