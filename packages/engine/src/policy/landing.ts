import { lstat, readlink } from "node:fs/promises";
import { join, posix } from "node:path";
import { BulkheadError, type Mount } from "@bulkhead/contract";
import { invalid, keptTarget, within } from "./mounts.ts";

/** As many as the kernel follows in one path. */
const MAX_LINKS = 40;

type Place = Pick<Mount, "source" | "target">;

/** Where `path` of the image in `rootfs` leads inside, its links followed as from a root directory there; null after too many. */
export async function resolveInside(rootfs: string, path: string): Promise<string | null> {
  const ahead = path.split("/").filter((part) => part !== "");
  const gone: string[] = [];
  let links = 0;
  for (let part = ahead.shift(); part !== undefined; part = ahead.shift()) {
    if (part === "" || part === ".") continue;
    if (part === "..") {
      gone.pop();
      continue;
    }
    const place = join(rootfs, ...gone, part);
    const link = (await lstat(place).catch(() => null))?.isSymbolicLink() === true ? await readlink(place) : null;
    if (link === null) {
      gone.push(part);
      continue;
    }
    links += 1;
    if (links > MAX_LINKS) return null;
    if (link.startsWith("/")) gone.length = 0;
    ahead.unshift(...link.split("/"));
  }
  return `/${gone.join("/")}`;
}

/**
 * The mounts with each target as it is once the image's own links are followed. A link in an image must not put a mount
 * where none may be named.
 * @throws BulkheadError MOUNT_INVALID naming the target and where it leads.
 */
export async function landings<M extends Place>(mounts: readonly M[], rootfs: string): Promise<M[]> {
  return await Promise.all(mounts.map(async (mount) => await landing(mount, rootfs)));
}

/** A configuration with more of them is no program's. */
const MAX_PROMISED = 128;

/**
 * Directories that an image names and does not have, as they are named: its working directory, where its data goes. What
 * lies in a mount or in the kernel's own file systems is left to them.
 * @throws BulkheadError IMAGE_INVALID for more than 128 of them.
 */
export async function absentFrom(
  rootfs: string,
  promised: readonly string[],
  mounts: readonly Pick<Mount, "target">[],
): Promise<string[]> {
  if (promised.length > MAX_PROMISED) {
    const what = `the image names ${promised.length} directories, at most ${MAX_PROMISED} are made`;
    throw new BulkheadError("IMAGE_INVALID", { what, next: "use another image" });
  }
  const absent = await Promise.all(
    [...new Set(promised)].map(async (path) => {
      const target = path.startsWith("/") ? await resolveInside(rootfs, path) : null;
      if (target === null || keptTarget(target) !== undefined) return [];
      if (mounts.some((mount) => within(target, mount.target))) return [];
      return (await lstat(join(rootfs, target)).catch(() => null)) === null ? [path] : [];
    }),
  );
  return absent.flat();
}

async function landing<M extends Place>(mount: M, rootfs: string): Promise<M> {
  // What is not written plainly is refused as such later.
  if (posix.normalize(mount.target) !== mount.target) return mount;
  const target = await resolveInside(rootfs, mount.target);
  const named = `mount target ${JSON.stringify(mount.target)}`;
  if (target === null) {
    throw invalid(mount, `${named} leads nowhere`, "the image's links go round in a circle", "mount somewhere else");
  }
  const kept = target === "/" ? "/" : keptTarget(target);
  if (kept === undefined || target === mount.target) return { ...mount, target };
  throw invalid(
    mount,
    `${named} is refused`,
    `links in the image lead it to ${target}, and ${kept} belongs to the boundary`,
    "mount somewhere else, for example at /mnt",
  );
}
