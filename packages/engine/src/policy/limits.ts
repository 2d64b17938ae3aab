import { BulkheadError, type BlockDevice, type MountPlan, type Spec } from "@bulkhead/contract";
import type { DriverCapabilities } from "../drivers/driver.ts";
import type { HostFacts } from "../host/facts.ts";

type Asked = Pick<Spec, "cpuWeight" | "diskIops" | "diskBytesPerSecond"> & {
  readonly mounts: readonly Pick<MountPlan, "source" | "readOnly" | "volume">[];
};

const limitsDisk = (spec: Asked): boolean => spec.diskIops !== undefined || spec.diskBytesPerSecond !== undefined;

function lacking(limit: string, controller: string): BulkheadError {
  return new BulkheadError("LIMIT_UNSUPPORTED", {
    what: `${limit} cannot be held on this host`,
    why: `its control groups have no ${controller} controller`,
    next: `boot a kernel that has it, or leave ${limit} out`,
    details: { limit, controller },
  });
}

/**
 * Refuses limits that this host's control groups cannot hold a sandbox to, before anything is started.
 * @param layerOnDisk what is written to the writable layer goes to the state directory's disk
 * @returns the block devices on which its disk traffic is to be limited, where the control group does that.
 * @throws BulkheadError LIMIT_UNSUPPORTED naming the limit.
 */
export async function checkLimits(
  spec: Asked,
  { diskThrottle }: Pick<DriverCapabilities, "diskThrottle">,
  { cgroup, paths }: Pick<HostFacts, "cgroup" | "paths">,
  layerOnDisk: boolean,
): Promise<readonly BlockDevice[]> {
  const has = (controller: string): boolean => cgroup.controllers.includes(controller);
  if (spec.cpuWeight !== undefined && !has("cpu")) throw lacking("cpu-weight", "cpu");
  if (!limitsDisk(spec)) return [];
  const limit = spec.diskIops === undefined ? "disk-bps" : "disk-iops";
  if (diskThrottle === "monitor") {
    if (spec.mounts.length === 0) return [];
    throw new BulkheadError("LIMIT_UNSUPPORTED", {
      what: `${limit} cannot be held together with mounts at this level`,
      why: "the monitor limits the guest's own disks, and mounts pass by it",
      next: "copy the files in, or leave the limit out",
      details: { limit },
    });
  }
  if (spec.mounts.some(({ volume }) => volume !== undefined)) {
    throw new BulkheadError("LIMIT_UNSUPPORTED", {
      what: `${limit} cannot be held together with volumes`,
      why: "a volume's traffic passes through a device of its own that is made when it is attached",
      next: "leave out one of the two",
      details: { limit },
    });
  }
  const controller = cgroup.mode === "v2" ? "io" : "blkio";
  if (!has(controller)) throw lacking(limit, controller);
  // Loaded by those who ask for it: it reads the host's mount table.
  const { blockDevicesOf } = await import("../host/block-devices.ts");
  const own = [
    { path: paths.state, writable: layerOnDisk },
    { path: paths.run, writable: false },
  ];
  const mounts = spec.mounts.map(({ source, readOnly }) => ({ path: source, writable: !readOnly }));
  return await blockDevicesOf([...own, ...mounts], cgroup.mode === "v2");
}
