import { realpath, stat } from "node:fs/promises";
import { posix } from "node:path";
import { BulkheadError, type Mount, type MountPlan } from "@bulkhead/contract";

/** Kernel interfaces: a bind of any of them hands the sandbox a handle on the host, whatever the boundary. */
const HOST_SOURCES = ["/proc", "/sys", "/dev"];
/** Inside, these belong to the boundary itself: a mount over them would hide masks or the agent. */
const KEPT_TARGETS = ["/proc", "/sys", "/dev", "/.bulkhead"];

/** Whether `path` is `parent` or lies in it. */
export function within(path: string, parent: string): boolean {
  return path === parent || path.startsWith(parent === "/" ? "/" : `${parent}/`);
}

/** The one of the boundary's own places that `target` lies in. */
export function keptTarget(target: string): string | undefined {
  return KEPT_TARGETS.find((path) => within(target, path));
}

export function invalid(
  mount: Pick<Mount, "source" | "target">,
  what: string,
  why: string,
  next: string,
): BulkheadError {
  return new BulkheadError("MOUNT_INVALID", {
    what,
    why,
    next,
    details: { source: mount.source, target: mount.target },
  });
}

/** @returns the source with every symbolic link followed, so that what is judged is what is mounted; and whose it is. */
async function resolveSource(mount: Mount, kept: readonly string[]): Promise<Pick<MountPlan, "source" | "owner">> {
  const named = `mount source ${JSON.stringify(mount.source)}`;
  let source: string;
  try {
    source = await realpath(mount.source);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT") {
      throw invalid(
        mount,
        `${named} does not exist`,
        "a mount shows an existing host path",
        "create it, or correct the path",
      );
    }
    throw invalid(mount, `${named} cannot be resolved`, `the host says ${code ?? String(error)}`, "correct the path");
  }
  const shown = source === mount.source ? named : `${named}, which is ${JSON.stringify(source)},`;
  for (const path of HOST_SOURCES) {
    if (within(source, path)) {
      throw invalid(
        mount,
        `${shown} is refused`,
        `${path} is the host kernel's own interface`,
        "copy the files you need and mount the copy",
      );
    }
  }
  for (const path of kept) {
    if (within(source, path) || within(path, source)) {
      const why = `it ${within(source, path) ? "lies in" : "contains"} Bulkhead's own files in ${path}`;
      throw invalid(mount, `${shown} is refused`, why, "mount a directory that does not hold them");
    }
  }
  const { mode, uid, gid } = await stat(source);
  const kind = mode & 0o170000;
  if (kind === 0o040000 || kind === 0o100000) return { source, owner: { uid, gid } };
  const why = "only directories and regular files are mounted; a socket or device is a way out";
  throw invalid(
    mount,
    `${shown} is neither a directory nor a regular file`,
    why,
    "mount a directory or a regular file",
  );
}

function checkTarget(mount: Pick<Mount, "source" | "target">): string {
  const target = mount.target.length > 1 ? mount.target.replace(/\/$/, "") : mount.target;
  const named = `mount target ${JSON.stringify(mount.target)}`;
  if (!target.startsWith("/") || posix.normalize(target) !== target) {
    throw invalid(
      mount,
      `${named} is not valid`,
      "a target is an absolute path without . or .. or //",
      `write ${posix.resolve("/", target)}`,
    );
  }
  if (target === "/") {
    throw invalid(mount, `${named} is refused`, "it would hide the whole image", "mount below /, for example at /mnt");
  }
  const kept = keptTarget(target);
  if (kept !== undefined) {
    throw invalid(
      mount,
      `${named} is refused`,
      `${kept} belongs to the boundary`,
      "mount somewhere else, for example at /mnt",
    );
  }
  return target;
}

/**
 * @param volumes come besides, with directories of Bulkhead's own as sources
 * @param kept Bulkhead's own directories on this host; nothing in them, and nothing that contains them, is mounted.
 * @returns the mounts with real source paths and normal targets, parents before children.
 * @throws BulkheadError MOUNT_INVALID naming the path.
 */
export async function checkMounts(
  mounts: readonly Mount[],
  kept: readonly string[],
  volumes: readonly MountPlan[] = [],
): Promise<MountPlan[]> {
  const keptReal = await Promise.all(kept.map((path) => realpath(path).catch(() => path)));
  const checked: MountPlan[] = [];
  for (const mount of [...mounts, ...volumes]) {
    const target = checkTarget(mount);
    if (checked.some((other) => other.target === target)) {
      throw invalid(
        mount,
        `mount target ${JSON.stringify(target)} is given twice`,
        "the second would hide the first",
        "keep one of them",
      );
    }
    const found = "volume" in mount ? mount : await resolveSource(mount, keptReal);
    checked.push({ ...found, target, readOnly: mount.readOnly });
  }
  return checked.sort((a, b) => (a.target < b.target ? -1 : 1));
}
