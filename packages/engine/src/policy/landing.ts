import { lstat, readlink } from "node:fs/promises";
import { join, posix } from "node:path";
import type { Mount } from "@bulkhead/contract";
import { invalid, keptTarget } from "./mounts.ts";

/** As many as the kernel follows in one path. */
const MAX_LINKS = 40;

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
export async function landings(mounts: readonly Mount[], rootfs: string): Promise<Mount[]> {
  return await Promise.all(mounts.map(async (mount) => await landing(mount, rootfs)));
}

async function landing(mount: Mount, rootfs: string): Promise<Mount> {
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
