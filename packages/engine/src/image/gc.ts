import { dirname, join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { KeptLayers } from "../layer/kept.ts";
import type { FileLockOptions } from "../system/file-lock.ts";
import { runChecked } from "../system/process.ts";
import { removeTree } from "../system/remove-tree.ts";
import { listOrEmpty } from "./holds.ts";
import { blobPath, blobsDir, layerDir } from "./layers.ts";
import type { ImageStore, ListedImage } from "./store.ts";

const DU_TIMEOUT_MS = 30 * 60_000;
const LAYER = /^sha256-[0-9a-f]{64}$/;
const BLOB = /^[0-9a-f]{64}$/;

export interface GcOptions extends FileLockOptions {
  /** Images go, the one that was used the longest ago first, until this many bytes are in use; none when left out. */
  readonly keepBytes?: number;
}

export interface GcReport {
  /** Bytes on disk; what files share counts once. */
  readonly beforeBytes: number;
  readonly afterBytes: number;
  /** What was removed: names, or the digest of what had none. */
  readonly images: readonly string[];
  readonly layers: number;
  readonly blobs: number;
}

/**
 * Removes layers and blobs that no image is made of, and images as far as a budget asks for it. Never what a sandbox uses
 * or a kept layer lies over, and never what was built, committed or copied here: nothing could bring that back. Waits for pulls
 * under way, because what those have fetched belongs to no image yet.
 *
 * @throws BulkheadError ABORTED, HOST_UNSUPPORTED
 */
export async function collectGarbage(store: ImageStore, options: GcOptions = {}): Promise<GcReport> {
  await using _alone = await store.lock("use.lock", options);
  // Takes away what killed processes left.
  await (await store.workspace())[Symbol.asyncDispose]();
  const beforeBytes = await usedBytes(store);
  const removed = await sweep(store);
  const images: string[] = [];
  let afterBytes = removed.layers + removed.blobs === 0 ? beforeBytes : await usedBytes(store);
  const { keepBytes = Number.POSITIVE_INFINITY } = options;
  for (const image of await candidates(store)) {
    if (afterBytes <= keepBytes) break;
    if (!(await removeUnused(store, image, options))) continue;
    images.push(image.names.join(", ") || image.digest);
    const more = await sweep(store);
    removed.layers += more.layers;
    removed.blobs += more.blobs;
    afterBytes = await usedBytes(store);
  }
  return { beforeBytes, afterBytes, images, ...removed };
}

async function candidates(store: ImageStore): Promise<readonly ListedImage[]> {
  const kept = new Set((await new KeptLayers(dirname(store.dir)).list()).map(({ image }) => image));
  const all = store
    .list()
    .filter(({ digest, users }) => users.length === 0 && !kept.has(digest))
    // What came as documents can come again; what was built, committed or copied from a directory may be nowhere else.
    .filter(({ config }) => (config?.origin?.documents.length ?? 0) > 0);
  return all.toSorted((a, b) => a.usedMs - b.usedMs);
}

/** False when a sandbox has begun to use it meanwhile, or somebody else was faster. */
async function removeUnused(store: ImageStore, image: ListedImage, options: GcOptions): Promise<boolean> {
  try {
    await store.remove(image.digest, options.signal);
    return true;
  } catch (error) {
    const isOver = error instanceof BulkheadError && ["IMAGE_IN_USE", "IMAGE_NOT_FOUND"].includes(error.code);
    if (isOver) return false;
    throw error;
  }
}

async function sweep(store: ImageStore): Promise<{ layers: number; blobs: number }> {
  const origins = store.list().flatMap(({ config }) => config?.origin ?? []);
  const layers = new Set(origins.flatMap((origin) => origin.layers.map(({ diffId }) => layerDir(store, diffId))));
  const blobs = new Set(
    origins
      .flatMap(({ documents, layers: own }) => [...documents, ...own.flatMap(({ blob }) => blob ?? [])])
      .map((digest) => blobPath(store, digest)),
  );
  const removed = { layers: 0, blobs: 0 };
  for (const name of listOrEmpty(join(store.dir, "layers"))) {
    const path = join(store.dir, "layers", name);
    if (!LAYER.test(name) || layers.has(path)) continue;
    await removeTree(path, store.dir);
    removed.layers += 1;
  }
  for (const name of listOrEmpty(blobsDir(store))) {
    const path = join(blobsDir(store), name);
    if (!BLOB.test(name) || blobs.has(path)) continue;
    await removeTree(path, store.dir);
    removed.blobs += 1;
  }
  return removed;
}

/** Of the whole store, as the disk counts. */
export async function usedBytes(store: ImageStore): Promise<number> {
  const { stdout } = await runChecked(["du", "--summarize", "--block-size=1", store.dir], {
    failure: "HOST_RESOURCE",
    timeoutMs: DU_TIMEOUT_MS,
  });
  return Number.parseInt(stdout, 10);
}
