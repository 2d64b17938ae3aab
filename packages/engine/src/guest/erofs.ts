import { readFileSync } from "node:fs";
import { access, chmod, open, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import type { ImageFiles } from "../drivers/driver.ts";
import { digestOfFile } from "../image/digest.ts";
import { lockFile } from "../system/file-lock.ts";
import { runChecked } from "../system/process.ts";
import { removeTree } from "../system/remove-tree.ts";

const NAME = "root.erofs";
const RECORD = `${NAME}.sha256`;
/** A gigabyte takes a few seconds on an idle disk. */
const TIMEOUT_MS = 30 * 60_000;
/**
 * Written as the time of building. Later than any file's time: mkfs.erofs keeps times up to it, and a Python cache file
 * is only used when its source has the time it was compiled from.
 */
const BUILD_TIME_S = 4_102_444_800;

export interface ErofsOptions {
  readonly signal?: AbortSignal;
  /** Called when somebody else builds the same image. */
  readonly onWait?: () => void;
  /** Called when it is not there and is made. */
  readonly onBuild?: () => void;
}

/** Where the file is or will be. */
export function erofsPath(image: ImageFiles): string {
  return join(dirname(image.rootfs), NAME);
}

/** Where it is while it is being made. */
export function erofsPart(image: ImageFiles): string {
  return `${erofsPath(image)}.part`;
}

/**
 * The root file system of an image as one read-only file, made when it is not there. It lies beside the unpacked image
 * and goes with it. Equal trees give equal bytes: owners, modes, times and extended attributes are kept, nothing of this
 * machine is added.
 *
 * @returns the file's path
 * @throws BulkheadError HOST_UNSUPPORTED when mkfs.erofs is missing, IMAGE_BUILD_FAILED, TIMEOUT, ABORTED
 */
export async function erofsImage(image: ImageFiles, options: ErofsOptions = {}): Promise<string> {
  const dir = dirname(image.rootfs);
  const path = erofsPath(image);
  // One without a record could be anything: it is made again.
  const isReady = async (): Promise<boolean> => erofsRecord(image) !== null && (await exists(path));
  if (await isReady()) return path;
  await using _lock = await lockFile(join(dir, `${NAME}.lock`), options);
  if (await isReady()) return path;
  options.onBuild?.();
  const part = erofsPart(image);
  await using cleanup = new AsyncDisposableStack();
  cleanup.defer(() => removeTree(part, dir));
  await removeTree(part, dir);
  const argv = ["mkfs.erofs", "--quiet", "-U", uuid(image.digest), part, image.rootfs];
  await runChecked(["setpriv", "--pdeathsig", "KILL", ...argv], {
    failure: "IMAGE_BUILD_FAILED",
    next: "check that package erofs-utils is installed and that the disk has room for the image once more",
    timeoutMs: TIMEOUT_MS,
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", SOURCE_DATE_EPOCH: String(BUILD_TIME_S) },
    ...(options.signal && { signal: options.signal }),
  });
  await chmod(part, 0o444);
  await writeFile(recordPath(image), `${await digestOfFile(part, options.signal)}\n`);
  await sync(part);
  await rename(part, path);
  return path;
}

function recordPath(image: ImageFiles): string {
  return join(dirname(image.rootfs), RECORD);
}

/** Digest of the file as it was made, `sha256:…`; null when nothing says so. */
export function erofsRecord(image: ImageFiles): string | null {
  try {
    return readFileSync(recordPath(image), "utf8").trim();
  } catch {
    return null;
  }
}

/** The image's digest names its file system too. */
export function uuid(digest: string): string {
  const hex = /(?:^|:)([0-9a-f]{32})[0-9a-f]*$/.exec(digest)?.[1];
  const parts = /^(.{8})(.{4})(.{4})(.{4})(.{12})$/.exec(hex ?? "")?.slice(1);
  if (parts === undefined) throw new BulkheadError("INTERNAL", { what: `"${digest}" is no image digest` });
  return parts.join("-");
}

async function sync(path: string): Promise<void> {
  await using file = await open(path, "r");
  await file.sync();
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
