import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { configOf, type Directories } from "../host/index.ts";
import { digestOfFile, digestTree } from "../image/digest.ts";
import { layerDir } from "../image/layers.ts";
import type { Pulling } from "../image/pull.ts";
import type { ImageConfig, StoredImage } from "../image/store.ts";
import { composeLayers, importTree, unpackLayer, type LayersProgram } from "../image/unpack.ts";
import { Keeper } from "../system/keeper.ts";
import { explainBusy, KeptLayers, type KeptLayer } from "./kept.ts";
import { keptFile } from "./paths.ts";

/** A layer of many gigabytes at the pace of a slow disk. */
const PACK_TIMEOUT_MS = 3600_000;
/** Only a program's last words on standard error come back with its failure. */
const SAY_WHY = 'exec "$@" >&2';

export interface CommitOptions {
  readonly signal?: AbortSignal;
  /** Told what is being done, one line each, for people. */
  readonly onProgress?: (text: string) => void;
}

/**
 * Makes an image of a kept layer and the image it lies over, under a name of the caller's. The layer stays as it is. What
 * sandboxes wrote is read as any image's layer is: by the unpacker, within its limits.
 *
 * @throws BulkheadError KEPT_NOT_FOUND, KEPT_INVALID, KEPT_IN_USE; NOT_SUPPORTED for what a guest's kernel wrote;
 * IMAGE_NOT_FOUND, IMAGE_REFUSED, SPEC_INVALID, HOST_RESOURCE, KEEPER_FAILED, ABORTED
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
  refuseGuests(kept);
  await using _used = await store.lock("use.lock", { shared: true, ...stop });
  await using base = store.use(kept.image);
  await using work = await store.workspace();
  const program: LayersProgram = { path, limits, image: `the layer kept as ${name}`, ...stop };
  const archive = join(work.dir, "layer.tar");
  onProgress("packing what was written");
  await pack(kept, archive, directories, path, signal);
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

function refuseGuests({ name, writer }: KeptLayer): void {
  if (writer === "host") return;
  throw new BulkheadError("NOT_SUPPORTED", {
    what: `no image can be made of the layer kept as ${name}`,
    why: "a guest's kernel wrote it as a disk, which the host's kernel does not read",
    next: "copy the files out of a sandbox that has it, or make the layer at container or gvisor",
  });
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

/** The packer's last line says what stopped it, and where; the path is a sandbox's and shown without what a terminal acts on. */
function explainPacking(error: unknown, name: string): unknown {
  const said = error instanceof BulkheadError ? error.details["stderr"] : undefined;
  if (typeof said !== "string") return error;
  try {
    const last = JSON.parse(said.split("\n").at(-1) ?? "") as { error: { kind: string; path?: string; what: string } };
    const { kind, path, what } = last.error;
    const place = path === undefined ? "" : ` at ${JSON.stringify(path).replace(/[^\x20-\x7e]/g, "?")}`;
    const details = { kind, ...(path !== undefined && { path }) };
    return new BulkheadError("IMAGE_REFUSED", { what: `the layer kept as ${name}: ${what}${place}`, details });
  } catch {
    return error;
  }
}

/** The keeper mounts it where nobody else sees it, and has the packer read it there. */
async function pack(
  { name, bytes }: KeptLayer,
  archive: string,
  directories: Directories,
  program: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { keeper: path, run: runDir, state } = configOf(directories);
  await using keeper = await Keeper.start({ path, runDir, ...(signal !== undefined && { signal }) });
  const instance = await keeper.reserve();
  const disk = `${instance.dir}/disk`;
  const words = ["pack", "--from", `${disk}/data`, "--id-base", `${instance.idBase}`, "--out", archive];
  const callOff = (): void => void keeper.release(instance).catch(() => undefined);
  signal?.addEventListener("abort", callOff, { once: true });
  try {
    await keeper.acquire(instance, [
      { op: "dir", path: disk, mode: 0o700 },
      { op: "disk", target: disk, path: keptFile(state, name), maxBytes: bytes, keep: true },
      { op: "run", argv: ["/bin/sh", "-c", SAY_WHY, "sh", program, ...words], timeoutMs: PACK_TIMEOUT_MS },
    ]);
    await keeper.release(instance);
  } catch (cause) {
    if (signal?.aborted === true) throw new BulkheadError("ABORTED", { what: "the commit was called off", cause });
    throw explainPacking(explainBusy(cause, name), name);
  } finally {
    signal?.removeEventListener("abort", callOff);
  }
}
