import { existsSync, lstatSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { Descriptor } from "./manifest.ts";

/** Often enough for a bar that looks alive, and a hundred small files cost a millisecond. */
const POLL_MS = 200;
/** Beyond the blobs themselves: manifests, lists, an archive's own headers. */
const SLACK_BYTES = 64 * 1024 * 1024;
/** Deeper than any layout or archive of images. */
const MAX_DEPTH = 8;

/** How far one blob has come. */
export interface Arrived extends Descriptor {
  readonly bytes: number;
  /** It is whole and in its place. */
  readonly whole: boolean;
}

export interface ArrivalOptions {
  /** Where whole blobs are, by digest. */
  readonly blobsDir: string;
  /** What is being written: nothing else writes there. */
  readonly workDir: string;
  /** What is expected; empty when that is not known before, and then nothing counts as stalled. */
  readonly blobs: readonly Descriptor[];
  /** What may be in `workDir` at most where `blobs` is empty. */
  readonly maxBytes: number;
  readonly stallMs: number;
  readonly onArrived: (blobs: readonly Arrived[]) => void;
}

/**
 * Watches a copy by what it has written, because the program that makes it tells no bytes: files in the work directory,
 * each of which becomes a whole blob by one rename. Calls off what stalls and what is more than was announced.
 */
export class Arrival implements Disposable {
  /** Aborted with `stall` or `too-large` as its reason. */
  readonly signal: AbortSignal;
  readonly #options: ArrivalOptions;
  readonly #control = new AbortController();
  readonly #timer: NodeJS.Timeout;
  /** Files under way in the order in which they were first seen. */
  #files: readonly string[] = [];
  #last = -1;
  #lastChange = performance.now();

  constructor(options: ArrivalOptions) {
    this.#options = options;
    this.signal = this.#control.signal;
    this.#timer = setInterval(() => this.#look(), POLL_MS);
  }

  /** Looks a last time and stops. */
  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    if (!this.signal.aborted) this.#look();
  }

  #look(): void {
    const { blobs, maxBytes, stallMs, onArrived } = this.#options;
    const files = filesBelow(this.#options.workDir);
    const written = [...files.values()].reduce((sum, size) => sum + size, 0);
    const announced = blobs.reduce((sum, { size }) => sum + size, 0);
    if (written > (blobs.length > 0 ? announced : maxBytes) + SLACK_BYTES) return this.#control.abort("too-large");
    this.#files = [
      ...this.#files.filter((path) => files.has(path)),
      ...[...files.keys()].filter((path) => !this.#files.includes(path)),
    ];
    const arrived = assign(
      blobs,
      (digest) => existsSync(join(this.#options.blobsDir, digest.slice("sha256:".length))),
      this.#files.map((path) => files.get(path) ?? 0),
    );
    onArrived(arrived);
    // Renaming a file out of the work directory is a change as well.
    const state = written + arrived.filter(({ whole }) => whole).length;
    // What has come to its last byte is being written to disk, which takes as long as the disk takes.
    const isAwaited = arrived.some(({ whole, bytes, size }) => !whole && bytes < size);
    if (state !== this.#last || !isAwaited) this.#lastChange = performance.now();
    else if (performance.now() - this.#lastChange > stallMs) this.#control.abort("stall");
    this.#last = state;
  }
}

/**
 * Which file belongs to which blob is not told. They are begun in the blobs' order, so each goes to the first that has
 * none and is large enough; a whole blob is certain.
 */
export function assign(
  blobs: readonly Descriptor[],
  isWhole: (digest: string) => boolean,
  sizes: readonly number[],
): readonly Arrived[] {
  const left = [...sizes];
  return blobs.map(({ digest, size }) => {
    if (isWhole(digest)) return { digest, size, bytes: size, whole: true };
    const at = left.findIndex((bytes) => bytes <= size);
    const bytes = at === -1 ? 0 : (left.splice(at, 1)[0] ?? 0);
    return { digest, size, bytes, whole: false };
  });
}

/** Sizes of regular files by path; what vanishes meanwhile counts for nothing. */
function filesBelow(dir: string, depth = 0, found = new Map<string, number>()): Map<string, number> {
  if (depth > MAX_DEPTH) return found;
  let names: string[] = [];
  try {
    names = readdirSync(dir);
  } catch {
    return found;
  }
  for (const name of names) {
    const path = join(dir, name);
    const stats = lstatSync(path, { throwIfNoEntry: false });
    if (stats?.isDirectory() === true) filesBelow(path, depth + 1, found);
    else if (stats?.isFile() === true) found.set(path, stats.size);
  }
  return found;
}
