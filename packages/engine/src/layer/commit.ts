import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { configOf, type Directories } from "../host/index.ts";
import { digestOfFile, digestTree } from "../image/digest.ts";
import { layerDir } from "../image/layers.ts";
import type { Pulling } from "../image/pull.ts";
import type { ImageConfig, StoredImage } from "../image/store.ts";
import { composeLayers, importTree, unpackLayer, type LayersProgram } from "../image/unpack.ts";
import { KeptLayers } from "./kept.ts";
import type { Packing } from "./packing.ts";

export interface CommitOptions {
  readonly signal?: AbortSignal;
  /** Told what is being done, one line each, for people. */
  readonly onProgress?: (text: string) => void;
}

/**
 * Makes an image of a kept layer and the image it lies over, under a name of the caller's. The layer stays as it is. What
 * sandboxes wrote is read as any image's layer is: by the unpacker, within its limits. What a guest's kernel wrote as a disk
 * a guest reads, the host never.
 *
 * @throws BulkheadError KEPT_NOT_FOUND, KEPT_IN_USE, KEPT_INVALID (also of a disk that no guest can read); LEVEL_UNAVAILABLE
 * where a guest is needed and there is none; IMAGE_NOT_FOUND, IMAGE_REFUSED, SPEC_INVALID, HOST_RESOURCE, KEEPER_FAILED,
 * RUNTIME_FAILED, TIMEOUT, ABORTED
 */
export async function commitLayer(
  name: string,
  image: string,
  directories: Directories,
  pulling: Pulling,
  options: CommitOptions = {},
): Promise<StoredImage> {
  const { state } = configOf(directories);
  const { store, layersProgram: path, limits } = pulling;
  const { signal, onProgress = () => undefined } = options;
  const stop = signal === undefined ? {} : { signal };
  const kept = await new KeptLayers(state).get(name);
  await using _used = await store.lock("use.lock", { shared: true, ...stop });
  await using base = store.use(kept.image);
  await using work = await store.workspace();
  const program: LayersProgram = { path, limits, image: `the layer kept as ${name}`, ...stop };
  const archive = join(work.dir, "layer.tar");
  await pack({ kept, archive, directories, mostBytes: limits.unpackedBytes, program: path, onProgress, ...stop });
  const diffId = await digestOfFile(archive, signal);
  const upper = join(work.dir, "upper");
  await unpackLayer(program, archive, upper, { digest: diffId, diffId }, () => undefined);
  onProgress("putting the layers together");
  const lower = await layersOf(base, pulling, program, join(work.dir, "base"));
  const dir = join(work.dir, "image");
  mkdirSync(dir, { mode: 0o700 });
  const composed = await composeLayers(program, dir, [...lower, upper]);
  const { sizeBytes: _size, fileCount: _files, origin: _origin, ...said } = base.config;
  const about = { ...said, description: `${name}, over ${kept.reference}` };
  const { digest } = await digestTree(join(dir, "rootfs"), about, stop);
  const config: ImageConfig = {
    ...about,
    sizeBytes: composed.bytes,
    fileCount: composed.entries,
    origin: { reference: image, documents: [], layers: [] },
  };
  return await store.commit(dir, digest, config, image);
}

/** The image's own layers, whose files the new image then shares; of one that was built here its tree, read as a layer. */
async function layersOf(
  { config, rootfs }: StoredImage,
  { store }: Pulling,
  program: LayersProgram,
  place: string,
): Promise<readonly string[]> {
  const layers = config.origin?.layers ?? [];
  if (layers.length > 0) return layers.map(({ diffId }) => layerDir(store, diffId));
  await importTree(program, rootfs, place, () => undefined);
  return [place];
}

/** By a kernel of the kind that wrote it. */
async function pack(packing: Packing): Promise<void> {
  if (packing.kept.writer === "guest") return await (await import("./pack-in-guest.ts")).packInGuest(packing);
  packing.onProgress("packing what was written");
  await (await import("./pack-on-host.ts")).packOnHost(packing);
}
