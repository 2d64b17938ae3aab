import { readFile } from "node:fs/promises";
import type { Stats } from "node:fs";

/** Sandboxes that have a volume attached: alone for writing, or reading and sharing. */
export interface VolumeUsers {
  readonly writers: number;
  readonly readers: number;
}

/** As the kernel lists locks, so that looking keeps nobody from taking one: `1: FLOCK  ADVISORY  WRITE 42 fe:00:131 0 EOF`. */
export async function usersOf({ dev, ino }: Pick<Stats, "dev" | "ino">): Promise<VolumeUsers> {
  const hex = (number: number): string => number.toString(16).padStart(2, "0");
  const file = `${hex(major(dev))}:${hex(minor(dev))}:${ino}`;
  const lines = (await readFile("/proc/locks", "utf8")).split("\n").map((line) => line.trim().split(/\s+/));
  const held = lines.filter(([, kind, , , , where]) => kind === "FLOCK" && where === file).map(([, , , how]) => how);
  const count = (wanted: string): number => held.filter((how) => how === wanted).length;
  return { writers: count("WRITE"), readers: count("READ") };
}

/** As glibc takes a device's number apart. */
const major = (dev: number): number => Math.floor(dev / 2 ** 8) % 2 ** 12;
const minor = (dev: number): number => (dev % 2 ** 8) + Math.floor(dev / 2 ** 20) * 2 ** 8;
