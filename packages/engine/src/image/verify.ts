import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { erofsPath, erofsRecord } from "../guest/erofs.ts";
import { digestOfFile, digestTree } from "./digest.ts";
import { blobPath, type Layer } from "./layers.ts";
import type { Pulling } from "./pull.ts";
import type { ImageOrigin, ListedImage } from "./store.ts";
import { composeLayers, unpackLayer, type LayersProgram } from "./unpack.ts";

export interface Verdict {
  readonly digest: string;
  readonly names: readonly string[];
  /** One line each; empty when everything is as it was. */
  readonly problems: readonly string[];
}

/**
 * Verifies images by name or digest, all when none is named, one after the other.
 *
 * @throws BulkheadError IMAGE_NOT_FOUND, HOST_RESOURCE, ABORTED
 */
export async function verifyImages(
  references: readonly string[],
  pulling: Pulling,
  options: { readonly signal?: AbortSignal; readonly onImage?: (name: string) => void } = {},
): Promise<readonly Verdict[]> {
  const { store } = pulling;
  const { signal, onImage } = options;
  // What images are made of must not be cleared away meanwhile.
  await using _used = await store.lock("use.lock", { shared: true, ...(signal !== undefined && { signal }) });
  const digests = references.map((reference) => store.digestOf(reference));
  const verdicts: Verdict[] = [];
  for (const image of store.list()) {
    if (digests.length > 0 && !digests.includes(image.digest)) continue;
    onImage?.(image.names[0] ?? image.digest);
    verdicts.push(await verifyImage(image, pulling, signal));
  }
  return verdicts;
}

/**
 * Reads all of an image again and compares. What was pulled is unpacked once more beside the store from blobs whose digests
 * are checked, and the trees compared: nothing that is compared with has been written down by whoever could have
 * changed the tree.
 */
async function verifyImage(image: ListedImage, pulling: Pulling, signal?: AbortSignal): Promise<Verdict> {
  const { digest, names, config } = image;
  if (config === null) return { digest, names, problems: ["its configuration cannot be read"] };
  const problems = [...(await treeProblems(image, config.origin, pulling, signal)), ...(await guestProblems(image))];
  return { digest, names, problems };
}

async function treeProblems(
  image: ListedImage,
  origin: ImageOrigin | null,
  pulling: Pulling,
  signal: AbortSignal | undefined,
): Promise<readonly string[]> {
  const options = signal === undefined ? {} : { signal };
  if (origin === null || origin.documents.length === 0) {
    const tree = await digestTree(image.rootfs, saidAbout(image), options);
    return tree.digest === image.digest ? [] : [`its files and configuration are those of ${tree.digest}`];
  }
  const problems = await blobProblems(origin, image, pulling, signal);
  if (problems.length > 0) return problems;
  await using work = await pulling.store.workspace();
  const again = await rebuild(origin, image, pulling, work.dir, signal);
  const [now, then] = [await digestTree(image.rootfs, {}, options), await digestTree(again, {}, options)];
  return now.digest === then.digest ? [] : ["its unpacked files are not those of its layers"];
}

/** The part of a record that a tree's digest is over, in the order in which it was written. */
function saidAbout(image: ListedImage): Readonly<Record<string, unknown>> {
  const record = JSON.parse(readFileSync(join(image.rootfs, "..", "config.json"), "utf8")) as Record<string, unknown>;
  const { fileCount: _count, sizeBytes: _size, origin: _origin, ...said } = record;
  return said;
}

async function blobProblems(
  origin: ImageOrigin,
  image: ListedImage,
  { store }: Pulling,
  signal: AbortSignal | undefined,
): Promise<readonly string[]> {
  const problems: string[] = [];
  if (!origin.documents.includes(image.digest)) problems.push("its manifest is not the one it is named by");
  for (const digest of new Set([...origin.documents, ...origin.layers.flatMap(({ blob }) => blob ?? [])])) {
    const path = blobPath(store, digest);
    if (!existsSync(path)) problems.push(`${digest} is missing`);
    else if ((await digestOfFile(path, signal)) !== digest) problems.push(`${digest} is damaged`);
  }
  return problems;
}

async function rebuild(
  origin: ImageOrigin,
  image: ListedImage,
  pulling: Pulling,
  workDir: string,
  signal: AbortSignal | undefined,
): Promise<string> {
  const program: LayersProgram = {
    path: pulling.layersProgram,
    limits: pulling.limits,
    image: image.names[0] ?? image.digest,
    ...(signal !== undefined && { signal }),
  };
  const dirs: string[] = [];
  for (const [i, layer] of origin.layers.entries()) {
    const dir = join(workDir, `layer-${i}`);
    await unpackLayer(
      program,
      blobPath(pulling.store, blobOf(layer)),
      dir,
      { digest: blobOf(layer), diffId: layer.diffId },
      () => {},
    );
    dirs.push(dir);
  }
  const into = join(workDir, "image");
  mkdirSync(into, { mode: 0o700 });
  await composeLayers(program, into, dirs);
  return join(into, "rootfs");
}

function blobOf({ blob }: { readonly blob: string | null }): Layer["blob"] {
  if (blob !== null) return blob;
  throw new BulkheadError("INTERNAL", { what: "an image with documents has a layer that came in none" });
}

/** The file that guests are given, against what it was when it was made. */
async function guestProblems(image: ListedImage): Promise<readonly string[]> {
  const path = erofsPath(image);
  if (!existsSync(path)) return [];
  const recorded = erofsRecord(image);
  // What has no record is not used either.
  return recorded === null || (await digestOfFile(path)) === recorded ? [] : ["its file for microVMs is damaged"];
}
