import { access, chmod, mkdir, rename } from "node:fs/promises";
import { dirname, join } from "node:path";
import { BulkheadError, formatBytes } from "@bulkhead/contract";
import { lockFile } from "../system/file-lock.ts";
import { runChecked } from "../system/process.ts";
import { removeTree } from "../system/remove-tree.ts";

/** Raised when the options of mkfs change. */
const LAYOUT = 3;
/** What an overlay is made of; made here they cost a start nothing (15 ms in an emulated guest). */
const DIRECTORIES = ["data", "work"];
const TIMEOUT_MS = 60_000;
/** An inode's own size on the disk and as much again: more of them would leave a small disk without room for contents. */
const MIN_BYTES_PER_INODE = 8192;
const BLOCK_BYTES = 4096;
/** ext4 divides a disk into groups of so many blocks, of which each has its own inodes, in whole blocks of them. */
const BLOCKS_PER_GROUP = 8 * BLOCK_BYTES;
const INODES_PER_BLOCK = 16;

/** How large an empty file system is, and how many files it can hold. */
export interface ScratchSize {
  readonly bytes: number;
  readonly inodes: number;
}

/**
 * The size that can be made exactly, never more than asked for.
 * @throws BulkheadError LIMIT_UNSUPPORTED for fewer files than a disk of that size has in any case.
 */
export function scratchSize(bytes: number, inodes: number): ScratchSize {
  const blocks = Math.floor(bytes / BLOCK_BYTES);
  const whole = blocks * BLOCK_BYTES;
  const groups = Math.ceil(blocks / BLOCKS_PER_GROUP);
  const most = Math.max(INODES_PER_BLOCK * groups, Math.floor(whole / MIN_BYTES_PER_INODE));
  const step = INODES_PER_BLOCK * groups;
  const size = { bytes: whole, inodes: Math.floor(Math.min(inodes, most) / step) * step };
  if (size.inodes > 0) return size;
  throw new BulkheadError("LIMIT_UNSUPPORTED", {
    what: `a disk of ${formatBytes(whole)} cannot be held to ${inodes} files at this level`,
    why: `its file system has at least ${step} of them`,
    next: `ask for ${step} or more, or for a smaller disk`,
    details: { limit: "inodes", inodes, least: step },
  });
}

export function scratchPath(stateDir: string, { bytes, inodes }: ScratchSize): string {
  return join(stateDir, "scratch", `${LAYOUT}-${bytes}-${inodes}.ext4`);
}

/**
 * An empty ext4 of that size as a sparse file: what each writable layer that is thrown away begins as.
 *
 * @throws BulkheadError HOST_UNSUPPORTED, RUNTIME_FAILED, TIMEOUT, ABORTED
 */
export async function ensureScratch(stateDir: string, size: ScratchSize, signal?: AbortSignal): Promise<void> {
  const path = scratchPath(stateDir, size);
  if (await exists(path)) return;
  const dir = join(stateDir, "scratch");
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const stop = signal === undefined ? {} : { signal };
  await using _lock = await lockFile(join(dir, "lock"), stop);
  if (await exists(path)) return;
  const part = join(dir, "part");
  await removeTree(part, dir);
  await makeExt4(part, size, { journalMib: 0, ...stop });
  await rename(part, path);
}

export interface MakeOptions {
  /** 0: none, for what is thrown away. With one it is whole whenever its writer stops, and no repair is needed. */
  readonly journalMib: number;
  readonly signal?: AbortSignal;
}

/**
 * Makes the file `path`, with an empty ext4 in it that holds what an overlay needs: `data` and `work`.
 *
 * @throws BulkheadError HOST_UNSUPPORTED, RUNTIME_FAILED, TIMEOUT, ABORTED
 */
export async function makeExt4(path: string, size: ScratchSize, options: MakeOptions): Promise<void> {
  const { journalMib, signal } = options;
  const contents = join(dirname(path), "contents");
  for (const name of DIRECTORIES) await mkdir(join(contents, name), { recursive: true, mode: 0o755 });
  const journal = journalMib === 0 ? [] : ["-J", `size=${journalMib}`];
  const features = journalMib === 0 ? "^has_journal,^resize_inode" : "^resize_inode";
  // A hole reads as zeros; not told so, the kernel would go on writing them, over all tables, once it is mounted.
  const extended = "lazy_itable_init=1,assume_storage_prezeroed=1,nodiscard,root_owner=0:0";
  const blocks = ["-b", String(BLOCK_BYTES), "-N", String(size.inodes)];
  // After an error of the host's disk nothing more is written.
  const given = ["-q", "-F", "-m", "0", "-e", "remount-ro", "-O", features, ...journal, "-E", extended, ...blocks];
  await runChecked(["mkfs.ext4", ...given, "-d", contents, path, String(size.bytes / BLOCK_BYTES)], {
    failure: "RUNTIME_FAILED",
    next: "apt-get install e2fsprogs",
    timeoutMs: TIMEOUT_MS,
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
    ...(signal && { signal }),
  });
  await chmod(path, 0o600);
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
