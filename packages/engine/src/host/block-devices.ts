import { readFile, realpath } from "node:fs/promises";
import { basename } from "node:path";
import { BulkheadError, type BlockDevice } from "@bulkhead/contract";

/** What these hold is memory: nothing of it reaches a disk. */
const IN_MEMORY: ReadonlySet<string> = new Set(["tmpfs", "ramfs", "devtmpfs"]);
/** Their writes from the page cache are counted as the writer's (control groups of version 2); others' are nobody's. */
const COUNTS_WRITEBACK: ReadonlySet<string> = new Set(["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"]);

export interface MountEntry {
  readonly point: string;
  /** `254:1`; major 0 is no device of the kernel's own. */
  readonly device: string;
  readonly type: string;
  readonly source: string;
}

/** `\040` stands for a space, as in all of the kernel's tables. */
const unescaped = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));

/** @param table of /proc/self/mountinfo. @returns in the order they were mounted: a later one covers an earlier. */
export function parseMounts(table: string): readonly MountEntry[] {
  return table.split("\n").flatMap((line) => {
    const [left, right] = line.split(" - ");
    const [, , device, , point] = (left ?? "").split(" ");
    const [type, source] = (right ?? "").split(" ");
    if (device === undefined || point === undefined || type === undefined || source === undefined) return [];
    return [{ point: unescaped(point), device, type, source: unescaped(source) }];
  });
}

/** The mount on which an absolute path without symbolic links lies. */
export function mountOf(path: string, mounts: readonly MountEntry[]): MountEntry | undefined {
  const holds = ({ point }: MountEntry): boolean =>
    path === point || path.startsWith(point === "/" ? "/" : `${point}/`);
  return mounts.filter(holds).reduce<MountEntry | undefined>((best, one) => {
    return best === undefined || one.point.length >= best.point.length ? one : best;
  }, undefined);
}

const line = async (path: string): Promise<string | null> =>
  readFile(path, "utf8").then(
    (text) => text.trim(),
    () => null,
  );

/** The device of a mount as the kernel throttles it: a disk, never one of its partitions. */
async function throttled({ device, source }: MountEntry): Promise<string | null> {
  let number: string | null = device;
  // btrfs gives its files a device of its own; the disk is the one that was mounted.
  if (device.startsWith("0:")) {
    if (!source.startsWith("/dev/")) return null;
    number = await line(`/sys/class/block/${basename(await realpath(source).catch(() => source))}/dev`);
  }
  if (number === null) return null;
  const partition = await line(`/sys/dev/block/${number}/partition`);
  return partition === null ? number : await line(`${await realpath(`/sys/dev/block/${number}`)}/../dev`);
}

export interface Traffic {
  readonly path: string;
  readonly writable: boolean;
}

/**
 * The block devices behind paths, so that a control group can be held to a limit on each of them.
 * @param countsWriteback whether the host can charge what is written through the page cache (control groups version 2).
 * @throws BulkheadError LIMIT_UNSUPPORTED naming the path whose traffic no control group can limit.
 */
export async function blockDevicesOf(traffic: readonly Traffic[], countsWriteback: boolean): Promise<BlockDevice[]> {
  const mounts = parseMounts(await readFile("/proc/self/mountinfo", "utf8"));
  const found = new Map<string, string[]>();
  for (const { path, writable } of traffic) {
    const mount = mountOf(await realpath(path).catch(() => path), mounts);
    if (mount === undefined || IN_MEMORY.has(mount.type)) continue;
    const device = await throttled(mount);
    if (device === null) throw unlimited(path, `its file system, ${mount.type}, is on no block device of this host`);
    if (writable && !(countsWriteback && COUNTS_WRITEBACK.has(mount.type))) {
      const why = countsWriteback
        ? `${mount.type} does not say for whom it writes`
        : "with control groups of version 1 the kernel writes back in nobody's name";
      throw unlimited(path, why, "mount it read-only, or use a host with control groups of version 2");
    }
    found.set(device, [...(found.get(device) ?? []), path]);
  }
  return [...found].map(([device, holds]) => {
    const [major = 0, minor = 0] = device.split(":").map(Number);
    return { major, minor, holds };
  });
}

function unlimited(path: string, why: string, next = "move it to a local disk, or leave the limit out"): BulkheadError {
  return new BulkheadError("LIMIT_UNSUPPORTED", {
    what: `disk traffic of ${path} cannot be limited`,
    why,
    next,
    details: { limit: "disk-bps", path },
  });
}
