import { access, chmod, copyFile, mkdir, mkdtemp, readdir, rename } from "node:fs/promises";
import { join } from "node:path";
import type { ImageFiles } from "../drivers/driver.ts";
import { digestOfFile } from "../image/digest.ts";
import { lockFile } from "../system/file-lock.ts";
import { removeTree } from "../system/remove-tree.ts";

/** Where the program is inside. */
export const PACKER = "/bulkhead-layers";
const SCRATCH_PREFIX = ".making-";
/** What a guest mounts on its root. */
const DIRECTORIES = ["dev", "etc", "proc", "sys", "tmp"];

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

/**
 * An image that holds the packer and nothing else, so that no program of a sandbox or of an image runs where it reads. Made once for
 * each build of the packer, under `<state>/guest/packer/<digest>`.
 */
export async function packerImage(stateDir: string, program: string, signal?: AbortSignal): Promise<ImageFiles> {
  const digest = await digestOfFile(program, signal);
  const home = join(stateDir, "guest", "packer");
  const dir = join(home, digest.replace("sha256:", ""));
  const image = { reference: "bulkhead-layers", digest, rootfs: join(dir, "rootfs"), usrBin: false };
  if (await exists(dir)) return image;
  await mkdir(home, { recursive: true, mode: 0o700 });
  await using _lock = await lockFile(join(home, "lock"), signal === undefined ? {} : { signal });
  if (await exists(dir)) return image;
  // Whoever made them is gone: the lock is ours.
  for (const name of await readdir(home)) {
    if (name.startsWith(SCRATCH_PREFIX)) await removeTree(join(home, name), home);
  }
  const scratch = await mkdtemp(join(home, SCRATCH_PREFIX));
  await using unfinished = new AsyncDisposableStack();
  unfinished.defer(() => removeTree(scratch, home));
  const rootfs = join(scratch, "rootfs");
  for (const name of DIRECTORIES) await mkdir(join(rootfs, name), { recursive: true, mode: 0o755 });
  await copyFile(program, join(rootfs, PACKER));
  await chmod(join(rootfs, PACKER), 0o555);
  await rename(scratch, dir);
  return image;
}
