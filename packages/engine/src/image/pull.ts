import { mkdirSync, readFileSync, statSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { BulkheadError } from "@bulkhead/contract";
import { Arrival } from "./arrival.ts";
import { digestTree } from "./digest.ts";
import { blobPath, blobsDir, ensureLayers, layerDir, lockFor, stripeOf, type Layer } from "./layers.ts";
import { MAKE_ROOM, type ImageLimits } from "./limits.ts";
import {
  choosePlatform,
  goArchitecture,
  parseDocument,
  parseOciConfig,
  sha256,
  type Descriptor,
  type OciConfig,
} from "./manifest.ts";
import { PullReport, type OnPull } from "./pull-events.ts";
import { parseReference, type ImageSource, type LocalSource } from "./reference.ts";
import { copyImage, readManifest, stalled, type SkopeoOptions } from "./skopeo.ts";
import { BUILT_HERE, NOTHING_SAID, type ImageConfig, type ImageStore, type StoredImage } from "./store.ts";
import { composeLayers, importTree, type LayersProgram } from "./unpack.ts";

/** What programs find others by where an image does not say it, as with other engines. */
const DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/** Small files that are written beside the layers (a cache of the tool's own) are not to fail at a small layer's size. */
const MIN_FILE_BYTES = 64 * 1024 * 1024;
const READ_ATTEMPTS = 20;
const READ_PAUSE_MS = 50;

/** What pulling needs of this host; `Pulling` of a configuration is made by `pullingOf`. */
export interface Pulling {
  readonly store: ImageStore;
  /** Path of the program that unpacks layers. */
  readonly layersProgram: string;
  /** All of skopeo's environment. */
  readonly environment: Readonly<Record<string, string>>;
  readonly limits: ImageLimits;
  readonly insecureRegistries: readonly string[];
}

export interface PullOptions {
  /** False asks the source again although an image of that name is there. Default: true. */
  readonly missingOnly?: boolean;
  readonly signal?: AbortSignal;
  readonly onPull?: OnPull;
}

interface Context extends Pulling {
  readonly source: ImageSource;
  readonly workDir: string;
  readonly signal?: AbortSignal;
  readonly onPull: OnPull;
}

interface Fetched {
  /** Of the manifest. */
  readonly digest: string;
  readonly documents: readonly string[];
  readonly config: OciConfig;
  readonly layers: readonly Layer[];
  readonly report: PullReport;
}

/**
 * Brings an image into the store under its whole reference. Whatever is there already is not fetched, unpacked or composed
 * again, and what several processes ask for at a time is done by one of them.
 *
 * @throws BulkheadError SPEC_INVALID, NOT_SUPPORTED; IMAGE_NOT_FOUND, IMAGE_DENIED, IMAGE_PULL_FAILED, IMAGE_REFUSED,
 * IMAGE_INVALID, HOST_RESOURCE, HOST_UNSUPPORTED, TIMEOUT, ABORTED
 */
export async function pullImage(
  reference: string,
  pulling: Pulling,
  options: PullOptions = {},
): Promise<StoredImage & { readonly name: string; readonly pulled: boolean }> {
  const { store } = pulling;
  const { signal, onPull = () => {}, missingOnly = true } = options;
  refuseBuiltHere(reference);
  const source = parseReference(reference);
  const mark = markOf(source);
  const present = (): StoredImage | null => {
    const found = missingOnly ? store.find(source.name) : null;
    return found !== null && found.mark === mark ? found : null;
  };
  const early = present();
  if (early !== null) return { ...early, name: source.name, pulled: false };
  const waiting = (label: string) => ({
    onWait: () => onPull({ kind: "phase", label }),
    ...(signal !== undefined && { signal }),
  });
  await using _used = await store.lock("use.lock", { shared: true, ...waiting("waiting for a clean-up to end") });
  await using _own = await lockFor(store, "pull", stripeOf(source.name), waiting("waiting for another pull to end"));
  const meanwhile = present();
  if (meanwhile !== null) return { ...meanwhile, name: source.name, pulled: false };
  await using work = await store.workspace();
  const context = { ...pulling, source, workDir: work.dir, onPull, ...(signal !== undefined && { signal }) };
  const image = source.kind === "rootfs" ? await fromTree(context, source, mark) : await fromLayers(context, mark);
  onPull({ kind: "end", digest: image.digest });
  return { ...image, reference, name: source.name, pulled: true };
}

function refuseBuiltHere(reference: string): void {
  if (!BUILT_HERE.includes(reference)) return;
  throw new BulkheadError("SPEC_INVALID", {
    what: `${reference} is built on this machine and is at no registry`,
    why: "a name that is built here must not become what somebody else has put at a registry",
    next: `run "bulkhead image build-base${reference === "base" ? "" : " --with-node"}"`,
    details: { field: "image" },
  });
}

/** What tells that a local source is no longer what it was; nothing where only reading all of it would tell. */
function markOf(source: ImageSource): string {
  if (source.kind === "registry" || source.kind === "rootfs") return "";
  const file = source.kind === "oci" ? join(source.path, "index.json") : source.path;
  const stats = statSync(file, { throwIfNoEntry: false, bigint: true });
  if (stats !== undefined) return `${stats.ino}-${stats.size}-${stats.mtimeNs}`;
  throw localAbsent(source);
}

function localAbsent({ kind, path }: LocalSource): BulkheadError {
  const there = statSync(path, { throwIfNoEntry: false });
  const directory = {
    what: `${path} is no OCI layout`,
    why: "it is a directory without an index.json",
    next: `check the path; a root file system is taken by rootfs:${path}`,
  };
  const file = {
    what: `${path} is no directory`,
    why: `${kind}: takes a directory`,
    next: "check the path; archives are taken by oci-archive: and docker-archive:",
  };
  const nothing = { what: `${path} is not there`, why: "nothing has this path", next: "check the path" };
  return new BulkheadError("IMAGE_NOT_FOUND", there === undefined ? nothing : there.isDirectory() ? directory : file);
}

async function fromLayers(context: Context, mark: string): Promise<StoredImage> {
  const { store, source, workDir, onPull } = context;
  const { digest, config, layers, documents, report } = await fetchImage(context);
  const there = await store.name(digest, source.name, mark);
  if (there !== null) return there;
  const program = programOf(context);
  await ensureLayers(store, layers, {
    workDir,
    program,
    onProgress: ({ blob }, { read }) => report.layer(blob, "unpacking", read),
    onDone: ({ blob }) => report.layer(blob, "done", sizeOf(blobPath(store, blob))),
  });
  for (const { blob } of layers) report.layer(blob, "done", sizeOf(blobPath(store, blob)));
  onPull({ kind: "phase", label: "putting the layers together" });
  const dir = join(workDir, "image");
  mkdirSync(dir, { mode: 0o700 });
  const composed = await composeLayers(
    program,
    dir,
    layers.map(({ diffId }) => layerDir(store, diffId)),
  );
  checkWhole(context, composed);
  const { diffIds: _, ...said } = config;
  const about: ImageConfig = {
    version: 1,
    ...said,
    env: { PATH: DEFAULT_PATH, ...said.env },
    architecture: process.arch,
    description: `from ${source.name}`,
    sizeBytes: composed.bytes,
    fileCount: composed.entries,
    origin: { reference: source.name, documents, layers },
  };
  return await store.commit(dir, digest, about, source.name, mark);
}

function checkWhole({ source, limits }: Context, composed: { readonly entries: number; readonly bytes: number }): void {
  const isLarge = composed.bytes > limits.unpackedBytes;
  if (!isLarge && composed.entries <= limits.entries) return;
  const limit = isLarge ? limits.unpackedBytes : limits.entries;
  throw new BulkheadError("IMAGE_REFUSED", {
    what: `${source.name}: its layers together have ${isLarge ? `${composed.bytes} bytes` : `${composed.entries} entries`}`,
    why: `the limit is ${limit}`,
    details: { kind: isLarge ? "too-large" : "too-many-entries", limit },
  });
}

function programOf({ layersProgram, limits, source, signal }: Context): LayersProgram {
  return { path: layersProgram, limits, image: source.name, ...(signal !== undefined && { signal }) };
}

/** Documents first, so that what must not be is refused before anything large moves; then what of the layers is missing. */
async function fetchImage(context: Context): Promise<Fetched> {
  const { source, store, workDir, limits, onPull } = context;
  const skopeo: SkopeoOptions = { ...context, cwd: workDir, stallMs: limits.stallMs };
  onPull({ kind: "phase", label: source.kind === "registry" ? "asking for the manifest" : `reading ${source.path}` });
  const expected = source.kind === "registry" ? await announced(context, skopeo) : [];
  await checkRoom(context, expected);
  mkdirSync(blobsDir(store), { recursive: true, mode: 0o700 });
  const early = new PullReport(expected.slice(0, -1), onPull);
  await copyWatched(context, skopeo, expected, early);
  const index = JSON.parse(readFileSync(join(workDir, "oci", "index.json"), "utf8")) as {
    readonly manifests: readonly { readonly digest: string }[];
  };
  const digest = index.manifests[0]?.digest ?? "";
  const manifest = parseDocument(source.name, await readBlob(context, digest), limits);
  if (manifest.kind !== "image")
    throw new BulkheadError("INTERNAL", { what: `the copy of ${source.name} is an index` });
  for (const part of [manifest.config, ...manifest.layers]) checkSize(context, part);
  const bytes = await readBlob(context, manifest.config.digest);
  const config = parseOciConfig(source.name, bytes, manifest.layers.length, limits);
  const layers = manifest.layers.map((layer, i) => ({ blob: layer.digest, diffId: config.diffIds[i] ?? "" }));
  const report = expected.length > 0 ? early : new PullReport(manifest.layers, onPull);
  return { digest, documents: [digest, manifest.config.digest], config, layers, report };
}

/** What a registry says the image is made of: its layers, and its configuration last. */
async function announced(context: Context, skopeo: SkopeoOptions): Promise<readonly Descriptor[]> {
  const { source, limits } = context;
  const first = await readManifest(source, null, limits.documentBytes, skopeo);
  if (source.kind === "registry" && source.digest !== null) checkDigest(source.name, first, source.digest);
  let document = parseDocument(source.name, first, limits);
  if (document.kind === "index") {
    const { digest } = choosePlatform(source.name, document.entries, goArchitecture());
    const second = await readManifest(source, digest, limits.documentBytes, skopeo);
    checkDigest(source.name, second, digest);
    document = parseDocument(source.name, second, limits);
  }
  if (document.kind === "image") return [...document.layers, document.config];
  throw new BulkheadError("IMAGE_REFUSED", {
    what: `${source.name}: its index leads to another index`,
    details: { kind: "nested-index" },
  });
}

function checkDigest(name: string, bytes: Buffer, digest: string): void {
  if (sha256(bytes) === digest) return;
  throw new BulkheadError("IMAGE_REFUSED", {
    what: `${name}: the manifest that came is not ${digest}`,
    next: "pull it again; if it stays so the registry is damaged or hostile",
    details: { kind: "wrong-digest" },
  });
}

/** What room there must be and how much may come is judged by the sizes that a manifest says. */
function checkSize({ store, source }: Context, { digest, size }: Descriptor): void {
  const bytes = sizeOf(blobPath(store, digest));
  if (bytes === size) return;
  throw new BulkheadError("IMAGE_REFUSED", {
    what: `${source.name}: ${digest} has ${bytes} bytes, and its manifest says ${size}`,
    next: "pull it again; if it stays so whoever made it has made it wrong, or the registry is damaged or hostile",
    details: { kind: "wrong-size", digest, size, bytes },
  });
}

async function checkRoom({ store, source }: Context, expected: readonly Descriptor[]): Promise<void> {
  const needed = expected.reduce((sum, { digest, size }) => sum + (sizeOf(blobPath(store, digest)) > 0 ? 0 : size), 0);
  const { bavail, bsize } = await statfs(store.dir);
  if (needed <= bavail * bsize) return;
  throw new BulkheadError("HOST_RESOURCE", {
    what: `there is no room for ${source.name}`,
    why: `${needed} bytes are to come and ${bavail * bsize} are free in ${store.dir}`,
    next: MAKE_ROOM,
  });
}

async function copyWatched(
  context: Context,
  skopeo: SkopeoOptions,
  expected: readonly Descriptor[],
  report: PullReport,
): Promise<void> {
  const { source, store, workDir, limits, signal } = context;
  const largest = Math.max(MIN_FILE_BYTES, ...expected.map(({ size }) => size));
  using arrival = new Arrival({
    blobsDir: blobsDir(store),
    workDir,
    blobs: expected,
    maxBytes: limits.unpackedBytes,
    stallMs: limits.stallMs,
    onArrived: (blobs) => report.arrived(blobs),
  });
  try {
    await copyImage(source, {
      ...skopeo,
      blobsDir: join(store.dir, "blobs"),
      maxFileBytes: expected.length > 0 ? largest : limits.unpackedBytes,
      signal: AbortSignal.any([arrival.signal, ...(signal === undefined ? [] : [signal])]),
    });
  } catch (error) {
    if (!arrival.signal.aborted) throw error;
    if (arrival.signal.reason === "stall") throw stalled(source, limits.stallMs, error);
    throw new BulkheadError("IMAGE_REFUSED", {
      what: `${source.name}: more comes than it says, or than is allowed`,
      details: { kind: "too-large" },
      cause: error,
    });
  }
}

/** A document that has just come; bounded, and what its digest says. */
async function readBlob({ store, source, limits }: Context, digest: string): Promise<Buffer> {
  const path = blobPath(store, digest);
  for (let attempt = 1; ; attempt += 1) {
    if (sizeOf(path) > limits.documentBytes) {
      throw new BulkheadError("IMAGE_REFUSED", {
        what: `${source.name}: ${digest} has more than ${limits.documentBytes} bytes`,
        details: { kind: "too-large", limit: limits.documentBytes },
      });
    }
    const bytes = readFileSync(path);
    // Manifests are written in place: a pull of the same image by another name may be about to write it once more.
    if (sha256(bytes) === digest) return bytes;
    if (attempt === READ_ATTEMPTS) checkDigest(source.name, bytes, digest);
    await setTimeout(READ_PAUSE_MS);
  }
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}

/** A plain directory: read as one layer, under the rules for layers. Its image is named by what its tree is. */
async function fromTree(context: Context, source: LocalSource, mark: string): Promise<StoredImage> {
  const { store, workDir, onPull, signal } = context;
  if (statSync(source.path, { throwIfNoEntry: false })?.isDirectory() !== true) {
    throw localAbsent(source);
  }
  onPull({ kind: "phase", label: "reading the directory" });
  const program = programOf(context);
  const layer = join(workDir, "layer");
  await importTree(program, source.path, layer, () => {});
  const dir = join(workDir, "image");
  mkdirSync(dir, { mode: 0o700 });
  const composed = await composeLayers(program, dir, [layer]);
  const said = {
    version: 1 as const,
    env: { PATH: DEFAULT_PATH },
    user: "",
    workdir: "",
    entrypoint: NOTHING_SAID.entrypoint,
    cmd: NOTHING_SAID.cmd,
    stopSignal: null,
    exposedPorts: [],
    volumes: [],
    labels: {},
    architecture: process.arch,
    description: "from a directory",
  };
  const tree = await digestTree(join(dir, "rootfs"), said, signal === undefined ? {} : { signal });
  const about = { fileCount: composed.entries, sizeBytes: composed.bytes };
  const origin = { reference: source.name, documents: [], layers: [] };
  return await store.commit(dir, tree.digest, { ...said, ...about, origin }, source.name, mark);
}
