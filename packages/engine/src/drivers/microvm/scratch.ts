import { access, mkdir, rename } from "node:fs/promises";
import { join } from "node:path";
import { BulkheadError, formatBytes } from "@bulkhead/contract";
import { lockFile } from "../../system/file-lock.ts";
import { runChecked } from "../../system/process.ts";
import { removeTree } from "../../system/remove-tree.ts";

/** Raised when the options of mkfs change. */
const LAYOUT = 2;
/** What the guest makes an overlay of; made here it costs a start nothing (15 ms under emulation). */
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
  return join(stateDir, "guest", "scratch", `${LAYOUT}-${bytes}-${inodes}.ext4`);
}

/**
 * An empty ext4 of that size as a sparse file: what each sandbox's writable layer begins as. Without a journal, for it is
 * thrown away in the end.
 *
 * @throws BulkheadError HOST_UNSUPPORTED, RUNTIME_FAILED, TIMEOUT, ABORTED
 */
export async function ensureScratch(stateDir: string, size: ScratchSize, signal?: AbortSignal): Promise<void> {
  const path = scratchPath(stateDir, size);
  if (await exists(path)) return;
  const dir = join(stateDir, "guest", "scratch");
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const stop = signal === undefined ? {} : { signal };
  await using _lock = await lockFile(join(dir, "lock"), stop);
  if (await exists(path)) return;
  const [part, contents] = [join(dir, "part"), join(dir, "contents")];
  await removeTree(part, dir);
  for (const name of DIRECTORIES) await mkdir(join(contents, name), { recursive: true, mode: 0o755 });
  const features = "^has_journal,^resize_inode";
  const extended = "lazy_itable_init=1,nodiscard,root_owner=0:0";
  const blocks = ["-b", String(BLOCK_BYTES), "-N", String(size.inodes)];
  const options = ["-q", "-F", "-m", "0", "-O", features, "-E", extended, ...blocks, "-d", contents];
  await runChecked(["mkfs.ext4", ...options, part, String(size.bytes / BLOCK_BYTES)], {
    failure: "RUNTIME_FAILED",
    next: "apt-get install e2fsprogs",
    timeoutMs: TIMEOUT_MS,
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
    ...stop,
  });
  await rename(part, path);
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
