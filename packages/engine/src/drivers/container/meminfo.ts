import type { Plan, Step } from "@bulkhead/contract";
import type { Instance } from "../driver.ts";
import type { OciMount } from "../oci.ts";

/**
 * The kernel shows the host's memory in every container. Programs that size themselves by it would ask for more than they
 * may have and be killed, and it tells what machine this is. In its place stands the limit: right as a total; what is used
 * of it no file that is written once can say, so all of it counts as free.
 */
const PROC_MEMINFO = "/proc/meminfo";

const place = ({ dir }: Instance): string => `${dir}/meminfo`;

function content(limitBytes: number): string {
  const kib = Math.floor(limitBytes / 1024);
  const rows = [
    ...["MemTotal", "MemFree", "MemAvailable"].map((name) => [name, kib] as const),
    ...["Buffers", "Cached", "SwapCached", "Active", "Inactive", "SwapTotal", "SwapFree", "Dirty", "Writeback"].map(
      (name) => [name, 0] as const,
    ),
    ...["AnonPages", "Mapped", "Shmem", "Slab", "SReclaimable", "SUnreclaim"].map((name) => [name, 0] as const),
  ];
  return rows.map(([name, value]) => `${`${name}:`.padEnd(16)}${String(value).padStart(8)} kB\n`).join("");
}

export function meminfoSteps({ limits }: Plan, instance: Instance): readonly Step[] {
  if (limits.memoryBytes === null) return [];
  const owner = { uid: instance.idBase, gid: instance.idBase };
  return [{ op: "file", path: place(instance), mode: 0o444, content: content(limits.memoryBytes), ...owner }];
}

export function meminfoMounts({ limits }: Plan, instance: Instance): readonly OciMount[] {
  if (limits.memoryBytes === null) return [];
  const options = ["bind", "private", "nosuid", "nodev", "noexec", "ro"];
  return [{ destination: PROC_MEMINFO, type: "bind", source: place(instance), options }];
}
