import { BulkheadError, type BlockDevice, type MountPlan, type WritableLayer } from "@bulkhead/contract";
import type { DriverCapabilities } from "../drivers/driver.ts";
import { scratchSize } from "../drivers/scratch.ts";
import type { HostFacts } from "../host/facts.ts";
import { checkLimits } from "./limits.ts";
import type { ResolvedSpec } from "./resolve.ts";

/** Source trees average more than this per file. */
const BYTES_PER_INODE = 8 * 1024;
const LEAST_INODES = 4096;

type Asked = Omit<ResolvedSpec, keyof ChosenLayer> & { readonly diskInodes?: number | undefined };

/** Where the writable layer is, and what follows from that. */
export interface ChosenLayer {
  readonly layer: WritableLayer;
  /** Why it is there, in words. */
  readonly layerReason: string;
  /** What can be had exactly, never more than was asked for. */
  readonly diskBytes: number;
  readonly diskInodes: number;
  /** Block devices that hold what the sandbox reads and writes; empty when no limit on disk traffic was asked for. */
  readonly blockDevices: readonly BlockDevice[];
}

type Spec = Asked & { readonly diskBytes: number; readonly mounts: readonly MountPlan[] };
type Host = Pick<HostFacts, "cgroup" | "paths" | "loopDevices">;
type Capabilities = Pick<DriverCapabilities, "diskThrottle" | "layerWriter">;

const FILE_REASON = "the writable layer is a file on the host's disk, with an end in bytes and in files";
const MEMORY_REASON = "the writable layer is memory and counts against the memory limit";

/**
 * A disk, as people expect one: a file on the host's, which costs the sandbox no memory. Memory where that was asked for; and
 * where nothing was asked for and a file cannot be held to what was, with the reason.
 *
 * @throws BulkheadError SPEC_INVALID, NOT_SUPPORTED, LIMIT_UNSUPPORTED, HOST_UNSUPPORTED
 */
export async function chooseLayer(spec: Spec, capabilities: Capabilities, host: Host): Promise<ChosenLayer> {
  const { diskBacking, keep } = spec;
  if (diskBacking === "memory") {
    refuseMemory(spec, capabilities);
    return await inMemory(spec, capabilities, host, MEMORY_REASON);
  }
  try {
    return await inFile(spec, capabilities, host);
  } catch (error) {
    const asked = diskBacking !== undefined || keep !== undefined || capabilities.layerWriter === "guest";
    if (asked || !(error instanceof BulkheadError)) throw error;
    return await inMemory(spec, capabilities, host, `${MEMORY_REASON}: ${error.why}`);
  }
}

function refuseMemory({ keep, level }: Spec, { layerWriter }: Capabilities): void {
  if (keep !== undefined) {
    throw new BulkheadError("SPEC_INVALID", {
      what: `a layer kept as ${keep} cannot be in memory`,
      why: "memory is gone with its sandbox",
      next: "leave disk-backing out",
      details: { field: "diskBacking" },
    });
  }
  if (layerWriter === "host") return;
  throw new BulkheadError("NOT_SUPPORTED", {
    what: `a writable layer in memory cannot be had at ${level}`,
    why: "a guest's disks are files of the host",
    next: "leave disk-backing out",
  });
}

async function inMemory(spec: Spec, capabilities: Capabilities, host: Host, layerReason: string): Promise<ChosenLayer> {
  const { diskBytes, diskInodes = inodesFor(diskBytes) } = spec;
  const blockDevices = await checkLimits(spec, capabilities, host, false);
  return { layer: { backing: "memory", keep: null }, layerReason, diskBytes, diskInodes, blockDevices };
}

async function inFile(spec: Spec, capabilities: Capabilities, host: Host): Promise<ChosenLayer> {
  if (capabilities.layerWriter === "host" && !host.loopDevices) {
    throw new BulkheadError("HOST_UNSUPPORTED", {
      what: "a writable layer in a file cannot be had on this host",
      why: "it has no /dev/loop-control",
      next: "load the kernel module loop, or have the layer in memory: disk-backing memory",
    });
  }
  const { bytes, inodes } = scratchSize(spec.diskBytes, spec.diskInodes ?? inodesFor(spec.diskBytes));
  const blockDevices = await checkLimits(spec, capabilities, host, true);
  const keep = spec.keep ?? null;
  const layerReason = keep === null ? FILE_REASON : `${FILE_REASON}, kept as ${keep}`;
  return { layer: { backing: "file", keep }, layerReason, diskBytes: bytes, diskInodes: inodes, blockDevices };
}

function inodesFor(diskBytes: number): number {
  return Math.max(LEAST_INODES, Math.floor(diskBytes / BYTES_PER_INODE));
}
