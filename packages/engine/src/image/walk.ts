import { lstatSync, readdirSync, readlinkSync, type Stats } from "node:fs";

/** One thing in a file tree. Paths and links are bytes as latin1, so that any name a file system holds survives. */
export interface TreeEntry {
  /** Relative to the root, `""` for the root itself. */
  readonly path: string;
  readonly type: "dir" | "file" | "link" | "char" | "block" | "fifo" | "socket";
  /** Permission bits with setuid, setgid and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly mtimeMs: number;
  /** Device number of a device, else 0. */
  readonly rdev: number;
  /** Target of a symbolic link, else empty. */
  readonly link: string;
}

const PERMISSION_BITS = 0o7777;

/** Bytes of an entry's absolute path, for the file system's functions. */
export function entryPath(root: string, path: string): Buffer {
  const base = Buffer.from(root, "utf8");
  return path === "" ? base : Buffer.concat([base, Buffer.from("/"), Buffer.from(path, "latin1")]);
}

/** Everything below `root`, the root first, in byte order of names within a directory, parents before children. */
export function* walkTree(root: string, path = ""): Generator<TreeEntry> {
  const absolute = entryPath(root, path);
  const stats = lstatSync(absolute);
  const type = typeOf(stats);
  yield {
    path,
    type,
    mode: stats.mode & PERMISSION_BITS,
    uid: stats.uid,
    gid: stats.gid,
    size: type === "file" ? stats.size : 0,
    mtimeMs: stats.mtimeMs,
    rdev: type === "char" || type === "block" ? stats.rdev : 0,
    link: type === "link" ? readlinkSync(absolute, "buffer").toString("latin1") : "",
  };
  if (type !== "dir") return;
  const names = readdirSync(absolute, "buffer").map((name) => name.toString("latin1"));
  // The default order of strings is that of latin1 bytes.
  for (const name of names.toSorted()) yield* walkTree(root, path === "" ? name : `${path}/${name}`);
}

function typeOf(stats: Stats): TreeEntry["type"] {
  if (stats.isDirectory()) return "dir";
  if (stats.isFile()) return "file";
  if (stats.isSymbolicLink()) return "link";
  if (stats.isCharacterDevice()) return "char";
  if (stats.isBlockDevice()) return "block";
  return stats.isFIFO() ? "fifo" : "socket";
}
