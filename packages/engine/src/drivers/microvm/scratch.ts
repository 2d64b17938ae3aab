import { access, mkdir, rename } from "node:fs/promises";
import { join } from "node:path";
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
/** The first blocks of a file system are its own. */
const MIN_INODES = 64;

/** How large an empty file system is, and how many files it can hold. */
export interface ScratchSize {
  readonly bytes: number;
  readonly inodes: number;
}

export function scratchSize(bytes: number, inodes: number): ScratchSize {
  const whole = Math.floor(bytes / BLOCK_BYTES) * BLOCK_BYTES;
  return { bytes: whole, inodes: Math.max(MIN_INODES, Math.min(inodes, Math.floor(whole / MIN_BYTES_PER_INODE))) };
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
