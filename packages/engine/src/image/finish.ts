import {
  chmodSync,
  chownSync,
  lstatSync,
  lutimesSync,
  readFileSync,
  renameSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { removeTree } from "../system/remove-tree.ts";
import { entryPath, walkTree } from "./walk.ts";

const PERMISSION_BITS = 0o7777;
const MS_PER_DAY = 86_400_000;
/** Directories whose content is of the build, or is made anew at every start. */
const EMPTIED = ["dev", "run", "tmp", "var/tmp", "var/cache/apt", "var/lib/apt/lists", "var/log/apt", "root/.cache"];
/** Backups, locks, logs and caches that differ from build to build. */
const DELETED = [
  ...["passwd-", "group-", "shadow-", "gshadow-", "subuid-", "subgid-", ".pwd.lock"].map((name) => `etc/${name}`),
  ...["status-old", "diversions-old", "lock", "lock-frontend", "triggers/Lock"].map((name) => `var/lib/dpkg/${name}`),
  ...["config.dat-old", "templates.dat-old"].map((name) => `var/cache/debconf/${name}`),
  ...["alternatives.log", "bootstrap.log", "dpkg.log"].map((name) => `var/log/${name}`),
  "var/cache/ldconfig/aux-cache",
  "etc/apt/apt.conf.d/99mmdebstrap",
];

export interface FinishOptions {
  /** Lines of /etc/apt/sources.list in the image. */
  readonly sources: readonly string[];
  /** Nothing older than this was made by the build itself. */
  readonly buildStartMs: number;
}

/**
 * Takes the traces of one build out of a root file system, so that the same packages give the same image: no logs and
 * caches, an empty machine id, neutral names, and no time later than the newest package's.
 */
export async function finishRootfs(root: string, options: FinishOptions): Promise<void> {
  for (const dir of EMPTIED) {
    for (const name of namesIn(join(root, dir))) await removeTree(join(root, dir, name), root);
  }
  for (const path of DELETED) rmSync(join(root, path), { force: true });
  const latest = newestPackageTime(root, options.buildStartMs);
  replace(root, "etc/hostname", "bulkhead\n");
  replace(root, "etc/hosts", "127.0.0.1 localhost bulkhead\n::1 localhost ip6-localhost ip6-loopback\n");
  replace(root, "etc/resolv.conf", "");
  replace(root, "etc/machine-id", "");
  replace(root, "etc/apt/sources.list", options.sources.map((line) => `${line}\n`).join(""));
  const shadow = readFileSync(join(root, "etc/shadow"), "utf8");
  replace(root, "etc/shadow", datedShadow(shadow, Math.floor(latest / MS_PER_DAY)));
  clampTimes(root, options.buildStartMs, latest);
}

/** Third field of shadow(5) is the day of the last change, which would be the day of the build. */
export function datedShadow(text: string, day: number): string {
  return text.replace(/^([^:\n]*:[^:\n]*):\d+:/gm, `$1:${day}:`);
}

function namesIn(dir: string): readonly string[] {
  try {
    return readdirSync(dir);
  } catch {
    return [];
  }
}

/**
 * By rename, so that a symbolic link at that place is replaced and not followed out of the root. A file that was there
 * gives its owner and mode; a new one is root's and readable by all.
 */
function replace(root: string, path: string, content: string): void {
  const target = join(root, path);
  const old = lstatSync(target, { throwIfNoEntry: false });
  const like = old?.isFile() === true ? old : { mode: 0o644, uid: 0, gid: 0 };
  const fresh = `${target}.new~`;
  writeFileSync(fresh, content, { mode: 0o600, flag: "wx" });
  chownSync(fresh, like.uid, like.gid);
  chmodSync(fresh, like.mode & PERMISSION_BITS);
  renameSync(fresh, target);
}

function newestPackageTime(root: string, buildStartMs: number): number {
  let newest = 0;
  for (const { mtimeMs, type } of walkTree(root)) {
    if (type === "file" && mtimeMs < buildStartMs && mtimeMs > newest) newest = mtimeMs;
  }
  return newest;
}

function clampTimes(root: string, buildStartMs: number, latestMs: number): void {
  for (const entry of walkTree(root)) {
    if (entry.mtimeMs < buildStartMs) continue;
    lutimesSync(entryPath(root, entry.path), latestMs / 1000, latestMs / 1000);
  }
}
