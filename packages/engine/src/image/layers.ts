import { createHash } from "node:crypto";
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import type { FileLockOptions } from "../system/file-lock.ts";
import { digestOfFile } from "./digest.ts";
import { syncTo, type ImageStore } from "./store.ts";
import { unpackLayer, type LayerProgress, type LayersProgram } from "./unpack.ts";

const DIRECTORY_MODE = 0o700;
/** Enough that two pulls seldom wait for each other by chance; lock files stay, so there is an end to them. */
const LOCKS = 64;

/** A layer as an image's documents name it. */
export interface Layer {
  readonly diffId: string;
  readonly blob: string;
}

/** Where a layer is kept unpacked, once for all images: `tree/` and `layer.json`. */
export function layerDir(store: ImageStore, diffId: string): string {
  return join(store.dir, "layers", diffId.replace(":", "-"));
}

/** Where a layer or document is kept as it came. */
export function blobPath(store: ImageStore, digest: string): string {
  return join(blobsDir(store), digest.slice("sha256:".length));
}

export function blobsDir(store: ImageStore): string {
  return join(store.dir, "blobs", "sha256");
}

/** Work on one thing, of one kind, is done by one process at a time. */
export async function lockFor(
  store: ImageStore,
  kind: "pull" | "layer",
  stripe: number,
  options: FileLockOptions,
): Promise<AsyncDisposable> {
  mkdirSync(join(store.dir, "locks"), { recursive: true, mode: DIRECTORY_MODE });
  return await store.lock(join("locks", `${kind}-${stripe}`), options);
}

export function stripeOf(text: string): number {
  return createHash("sha256").update(text).digest().readUInt16BE(0) % LOCKS;
}

export interface UnpackOptions {
  /** A directory of the store's file system, for what is not whole. */
  readonly workDir: string;
  readonly program: LayersProgram;
  readonly onProgress: (layer: Layer, progress: LayerProgress) => void;
  readonly onDone: (layer: Layer) => void;
}

/**
 * Unpacks those of the layers that are not there, each once however many images and pulls ask for it at a time.
 *
 * @throws BulkheadError IMAGE_REFUSED, IMAGE_INVALID when a blob is not what it was when it came: it is removed then, and
 * another pull fetches it again
 */
export async function ensureLayers(store: ImageStore, layers: readonly Layer[], options: UnpackOptions): Promise<void> {
  const absent = (): readonly Layer[] => {
    const unique = new Map(layers.map((layer) => [layer.diffId, layer]));
    return [...unique.values()].filter(({ diffId }) => !existsSync(layerDir(store, diffId)));
  };
  if (absent().length === 0) return;
  await using locks = new AsyncDisposableStack();
  const { signal } = options.program;
  // In one order everywhere, or two pulls could wait for each other.
  const stripes = [...new Set(absent().map(({ diffId }) => stripeOf(diffId)))].toSorted((a, b) => a - b);
  for (const stripe of stripes) locks.use(await lockFor(store, "layer", stripe, signal ? { signal } : {}));
  const missing = absent();
  const place = (layer: Layer): string => join(options.workDir, `layer-${layer.diffId.slice("sha256:".length)}`);
  await eachOf(missing, availableParallelism(), async (layer) => {
    await unpackOne(store, layer, place(layer), options);
    options.onDone(layer);
  });
  if (missing.length > 0) await syncTo(options.workDir);
  mkdirSync(join(store.dir, "layers"), { recursive: true, mode: DIRECTORY_MODE });
  for (const layer of missing) renameSync(place(layer), layerDir(store, layer.diffId));
}

async function unpackOne(store: ImageStore, layer: Layer, into: string, options: UnpackOptions): Promise<void> {
  const path = blobPath(store, layer.blob);
  const expected = { digest: layer.blob, diffId: layer.diffId };
  try {
    await unpackLayer(options.program, path, into, expected, (progress) => options.onProgress(layer, progress));
  } catch (error) {
    const isContent = error instanceof BulkheadError && error.code === "IMAGE_REFUSED";
    if (!isContent || (await digestOfFile(path)) === layer.blob) throw error;
    rmSync(path, { force: true });
    throw new BulkheadError("IMAGE_INVALID", {
      what: `layer ${layer.blob} of ${options.program.image} is damaged in the store`,
      next: `pull it again: the damaged file is removed`,
      details: { kind: "damaged-blob", digest: layer.blob },
      cause: error,
    });
  }
}

/** As many at once as told; the first failure is thrown when those under way have ended, and no more are begun. */
async function eachOf<T>(items: readonly T[], atOnce: number, work: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items];
  let isFailed = false;
  const worker = async (): Promise<void> => {
    for (let item = queue.shift(); item !== undefined && !isFailed; item = queue.shift()) {
      try {
        await work(item);
      } catch (error) {
        isFailed = true;
        throw error;
      }
    }
  };
  const ends = await Promise.allSettled(Array.from({ length: Math.min(atOnce, items.length) }, worker));
  for (const end of ends) if (end.status === "rejected") throw end.reason as Error;
}
