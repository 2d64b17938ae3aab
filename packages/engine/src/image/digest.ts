import { createHash } from "node:crypto";
import { closeSync, createReadStream, openSync, readSync } from "node:fs";
import { pipeline } from "node:stream/promises";
import { setImmediate } from "node:timers/promises";
import { entryPath, walkTree } from "./walk.ts";
import { readXattrs } from "./xattrs.ts";

const READ_BYTES = 1024 * 1024;
/** Between two of these many files, timers, signals and the progress bar get their turn. */
const FILES_PER_TURN = 64;

export interface TreeDigest {
  /** `sha256:` and 64 hex digits. */
  readonly digest: string;
  readonly fileCount: number;
  readonly sizeBytes: number;
}

/** `sha256:` and 64 hex digits. */
export async function digestOfFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash, signal === undefined ? {} : { signal });
  return `sha256:${hash.digest("hex")}`;
}

/**
 * Digest of a file tree and of `config`, over one line of JSON per entry: path, type, mode, uid, gid, link target,
 * device, content, extended attributes. Times are no part of it: two trees that differ only in them are the same image.
 */
export async function digestTree(
  root: string,
  config: Readonly<Record<string, unknown>>,
  options: { readonly signal?: AbortSignal; readonly onFile?: (done: number) => void } = {},
): Promise<TreeDigest> {
  const xattrs = await readXattrs(root, options.signal);
  const listing = createHash("sha256");
  const buffer = Buffer.allocUnsafe(READ_BYTES);
  let fileCount = 0;
  let sizeBytes = 0;
  listing.update(`${JSON.stringify(["bulkhead-tree", 1, config])}\n`);
  for (const entry of walkTree(root)) {
    const content = entry.type === "file" ? hashFile(entryPath(root, entry.path), buffer) : "";
    const { path, type, mode, uid, gid, link, rdev } = entry;
    listing.update(`${JSON.stringify([path, type, mode, uid, gid, link, rdev, content, xattrs.get(path) ?? {}])}\n`);
    fileCount += 1;
    sizeBytes += entry.size;
    if (fileCount % FILES_PER_TURN === 0) {
      options.signal?.throwIfAborted();
      options.onFile?.(fileCount);
      await setImmediate();
    }
  }
  return { digest: `sha256:${listing.digest("hex")}`, fileCount, sizeBytes };
}

function hashFile(path: Buffer, buffer: Buffer): string {
  const hash = createHash("sha256");
  const fd = openSync(path, "r");
  try {
    for (;;) {
      const count = readSync(fd, buffer, 0, buffer.length, null);
      if (count === 0) return hash.digest("hex");
      hash.update(buffer.subarray(0, count));
    }
  } finally {
    closeSync(fd);
  }
}
