import { runChecked } from "../system/process.ts";

const BLOCK_BYTES = 4096;
/** Of what is empty only tables are written: a second for a terabyte. */
const TIMEOUT_MS = 5 * 60_000;
const ENV = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };
/** Whoever is inside may make files in the top directory, and removes only his own. */
const TOP_MODE = "041777";

export interface FileSystem {
  readonly sizeBytes: number;
  readonly inodes: number;
  readonly uid: number;
  readonly gid: number;
}

/**
 * An empty ext4 with a journal as a sparse file of that size. Errors make it read-only; no room is kept back for root; the
 * directory for what is found by a check is left out, for there are programs that want an empty one, and a check makes it.
 *
 * @throws BulkheadError HOST_UNSUPPORTED, HOST_RESOURCE, TIMEOUT, ABORTED
 */
export async function makeFileSystem(
  path: string,
  { sizeBytes, inodes, uid, gid }: FileSystem,
  options: { readonly signal?: AbortSignal } = {},
): Promise<void> {
  const run = { failure: "HOST_RESOURCE", timeoutMs: TIMEOUT_MS, env: ENV, ...options } as const;
  const extended = `lazy_itable_init=1,nodiscard,root_owner=${uid}:${gid}`;
  const blocks = ["-b", `${BLOCK_BYTES}`, "-N", `${inodes}`];
  const how = ["-q", "-F", "-m", "0", "-e", "remount-ro", "-E", extended, ...blocks];
  await runChecked(["mkfs.ext4", ...how, path, `${Math.floor(sizeBytes / BLOCK_BYTES)}`], {
    ...run,
    next: "make room on the host's disk, or ask for another size or number of files",
  });
  for (const command of ["rmdir lost+found", `set_inode_field <2> mode ${TOP_MODE}`]) {
    await runChecked(["debugfs", "-w", "-R", command, path], run);
  }
}
