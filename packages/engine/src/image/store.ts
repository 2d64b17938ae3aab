import { randomBytes } from "node:crypto";
import { existsSync, lstatSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import type { ImageFiles } from "../drivers/driver.ts";
import { lockFile, type FileLockOptions } from "../system/file-lock.ts";
import { runChecked } from "../system/process.ts";
import { removeTree } from "../system/remove-tree.ts";
import { Holds, listOrEmpty, processIdentity } from "./holds.ts";
import { nameFits, parseReference, refFileName } from "./reference.ts";

/** Root only: root file systems hold set-user-id programs that no user of the host may reach. */
const DIRECTORY_MODE = 0o700;
const NAME = /^[a-z0-9]+(?:[._/:-][a-z0-9]+)*$/;
const DIGEST = /^sha256:[0-9a-f]{64}$/;
/** With the process that makes or removes it: `<pid>-<start time>`. */
const UNFINISHED = /^\.(?:new|trash)-(?:(\d+)-(\d+)-)?/;
/** The part of a configuration that only programs made for containers have a use for, empty. */
export const NOTHING_SAID = {
  entrypoint: [],
  cmd: [],
  stopSignal: null,
  exposedPorts: [],
  volumes: [],
  labels: {},
  origin: null,
} as const;
/** Names that lead to no registry. */
export const BUILT_HERE: readonly string[] = ["base", "base-node"];
const SYNC_TIMEOUT_MS = 5 * 60_000;

/** One layer of an image that was not built here. */
export interface ImageLayer {
  /** Of the layer's own tar stream, by which it is kept unpacked. */
  readonly diffId: string;
  /** Of the layer as it came, by which it is kept in that form; null where it came in none. */
  readonly blob: string | null;
}

/** Where an image that was not built here is from. */
export interface ImageOrigin {
  /** The reference that was pulled, in full. */
  readonly reference: string;
  /** Digests of documents that are kept as they came. Empty where it was a plain directory. */
  readonly documents: readonly string[];
  /** Lowest first. */
  readonly layers: readonly ImageLayer[];
}

/** How processes start in an image unless the spec says otherwise, and what the image is. */
export interface ImageConfig {
  readonly version: 1;
  readonly env: Readonly<Record<string, string>>;
  readonly user: string;
  readonly workdir: string;
  /** Precedes `cmd`, or the command that is given, as in the OCI image configuration. */
  readonly entrypoint: readonly string[];
  /** What runs when no command is given. */
  readonly cmd: readonly string[];
  /** `SIGTERM` or `15`; null where the image says nothing. */
  readonly stopSignal: string | null;
  /** `8080/tcp`: what the image listens on; nothing is published for it. */
  readonly exposedPorts: readonly string[];
  /** Absolute paths whose content is data and no part of the program. */
  readonly volumes: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  /** As `process.arch` spells it. */
  readonly architecture: string;
  /** One line for people. */
  readonly description: string;
  readonly sizeBytes: number;
  readonly fileCount: number;
  /** Null for what was built here. */
  readonly origin: ImageOrigin | null;
}

export interface StoredImage extends ImageFiles {
  readonly config: ImageConfig;
}

export interface ListedImage extends ImageFiles {
  /** Null when it cannot be read: the image is damaged and only good for removal. */
  readonly config: ImageConfig | null;
  /** Names that point to it, sorted. */
  readonly names: readonly string[];
  /** Pids of processes that use it. */
  readonly users: readonly number[];
  /** When a sandbox last began or ended with it, or else when it came; milliseconds since 1970. */
  readonly usedMs: number;
}

/** Room for something new in the store; gone after disposal unless it was moved to its place. */
export interface Workspace extends AsyncDisposable {
  readonly dir: string;
}

/**
 * Images by content, under `<state>/images`: `sha256-<hex>/{rootfs,config.json}`, and `refs/<name>` holding a digest.
 * An image appears by one rename when it is whole and leaves by one rename; `.new-*` and `.trash-*` of processes that
 * are gone are what was left when those were killed, and go when the next image is made. What images that were pulled
 * are made of is beside them: `layers/` and `blobs/`.
 */
export class ImageStore {
  /** Absolute. */
  readonly dir: string;
  readonly #holds: Holds;

  constructor(stateDir: string) {
    this.dir = resolve(stateDir, "images");
    this.#holds = new Holds(join(this.dir, "holds"));
  }

  /** @throws BulkheadError IMAGE_NOT_FOUND, IMAGE_INVALID; SPEC_INVALID when `reference` cannot be a name */
  resolve(reference: string): StoredImage {
    const image = this.find(reference);
    if (image === null) throw absent(reference);
    return image;
  }

  /** As `resolve`; null when it is not there. @throws BulkheadError IMAGE_INVALID, SPEC_INVALID */
  find(reference: string): (StoredImage & { readonly mark: string }) | null {
    const found = this.#locate(reference);
    if (found === null) return null;
    const text = readOrNull(join(this.dir, idOf(found.digest), "config.json"));
    return { ...this.#files(reference, found.digest), config: parseConfig(text, found.digest), mark: found.mark };
  }

  #files(reference: string, digest: string): ImageFiles {
    const rootfs = join(this.dir, idOf(digest), "rootfs");
    return {
      reference,
      digest,
      rootfs,
      usrBin: isDirectory(join(rootfs, "usr")) && isDirectory(join(rootfs, "usr/bin")),
    };
  }

  /** A name given here goes before what the same text means elsewhere. @throws BulkheadError SPEC_INVALID */
  #locate(reference: string): { readonly digest: string; readonly name: string | null; readonly mark: string } | null {
    if (DIGEST.test(reference)) return this.has(reference) ? { digest: reference, name: null, mark: "" } : null;
    for (const name of namesOf(reference)) {
      const pointed = this.#pointed(name);
      if (pointed !== null && this.has(pointed.digest)) return { ...pointed, name };
    }
    return null;
  }

  /** Of an image that is there, also of a damaged one. @throws BulkheadError IMAGE_NOT_FOUND, SPEC_INVALID */
  digestOf(reference: string): string {
    const found = this.#locate(reference);
    if (found === null) throw absent(reference);
    return found.digest;
  }

  has(digest: string): boolean {
    return existsSync(join(this.dir, idOf(digest)));
  }

  /**
   * Resolves an image and keeps it from being removed until disposed of, or until the holder dies.
   *
   * @param holder pid whose life bounds the use; this process unless told otherwise
   */
  use(reference: string, holder: number = process.pid): StoredImage & AsyncDisposable {
    const image = this.resolve(reference);
    const hold = this.#holds.take(idOf(image.digest), holder);
    return { ...image, [Symbol.asyncDispose]: async () => hold[Symbol.dispose]() };
  }

  /** Every whole image, by its first name, the nameless last. */
  list(): readonly ListedImage[] {
    const names = Map.groupBy(this.#names(), ([, digest]) => digest);
    const images = listOrEmpty(this.dir).flatMap((id): ListedImage[] => {
      const digest = id.replace("-", ":");
      if (!DIGEST.test(digest)) return [];
      const own = (names.get(digest) ?? []).map(([name]) => name).toSorted();
      return [
        {
          ...this.#files(own[0] ?? digest, digest),
          config: this.#configOrNull(digest),
          names: own,
          users: this.#holds.users(id),
          usedMs: Math.max(mtimeMs(join(this.dir, "holds", id)), mtimeMs(join(this.dir, id))),
        },
      ];
    });
    const key = (image: ListedImage): string => image.names[0] ?? `~${image.digest}`;
    return images.toSorted((a, b) => (key(a) < key(b) ? -1 : 1));
  }

  /**
   * Takes a name away, and the image with its last name; by digest, the image with all its names.
   *
   * @returns what was removed
   * @throws BulkheadError IMAGE_NOT_FOUND, IMAGE_IN_USE
   */
  async remove(reference: string, signal?: AbortSignal): Promise<{ names: readonly string[]; image: boolean }> {
    await using _lock = await this.lock("lock", signal === undefined ? {} : { signal });
    const found = this.#locate(reference);
    if (found === null) throw absent(reference);
    const { digest, name: only } = found;
    const all = this.#names().flatMap(([name, to]) => (to === digest ? [name] : []));
    const names = only === null ? all : [only];
    if (names.length < all.length) {
      for (const name of names) rmSync(this.#refFile(name));
      return { names, image: false };
    }
    const id = idOf(digest);
    using _closed = this.#holds.forbid(id, reference);
    const trash = join(this.dir, unfinishedName("trash"));
    for (const name of names) rmSync(this.#refFile(name));
    renameSync(join(this.dir, id), trash);
    await removeTree(trash, this.dir);
    return { names, image: true };
  }

  /**
   * Makes room for an image that only one process builds at a time; the others wait here.
   */
  async begin(options: FileLockOptions): Promise<Workspace> {
    await using stack = new AsyncDisposableStack();
    stack.use(await this.lock("build.lock", options));
    const { dir } = stack.use(await this.workspace());
    const owned = stack.move();
    return { dir, [Symbol.asyncDispose]: () => owned.disposeAsync() };
  }

  /** Makes room for something new. What processes that are gone left is swept first. */
  async workspace(): Promise<Workspace> {
    mkdirSync(this.dir, { recursive: true, mode: DIRECTORY_MODE });
    for (const name of listOrEmpty(this.dir)) {
      const left = UNFINISHED.exec(name);
      if (left === null || processIdentity(Number(left[1])) === `${left[1]}-${left[2]}`) continue;
      await removeTree(join(this.dir, name), this.dir);
    }
    const dir = join(this.dir, unfinishedName("new"));
    mkdirSync(dir, { mode: DIRECTORY_MODE });
    return { dir, [Symbol.asyncDispose]: () => removeTree(dir, this.dir) };
  }

  /**
   * Moves a finished `<dir>/rootfs` into the store under its digest and points `name` to it.
   *
   * @param mark what its source looked like, one line, to be compared with later
   */
  async commit(dir: string, digest: string, config: ImageConfig, name: string, mark = ""): Promise<StoredImage> {
    checkedName(name);
    writeFileSync(join(dir, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
    // Contents reach the disk before the name does: a power cut must not leave an image that is half there.
    await syncTo(dir);
    await using _lock = await this.lock("lock", {});
    const target = join(this.dir, idOf(digest));
    if (!existsSync(target)) renameSync(dir, target);
    this.#point(name, digest, mark);
    return this.resolve(name);
  }

  /** Gives an image that is there one more name; null when it is not there. */
  async name(digest: string, name: string, mark = ""): Promise<StoredImage | null> {
    checkedName(name);
    await using _lock = await this.lock("lock", {});
    if (!this.has(digest)) return null;
    this.#point(name, digest, mark);
    return this.resolve(name);
  }

  #point(name: string, digest: string, mark: string): void {
    const ref = this.#refFile(name);
    mkdirSync(join(this.dir, "refs"), { recursive: true, mode: DIRECTORY_MODE });
    writeFileSync(`${ref}~`, `${digest}\n${mark === "" ? "" : `${mark}\n`}`);
    renameSync(`${ref}~`, ref);
  }

  /** Locks a file of the store's own; see `lockFile`. */
  lock(file: string, options: FileLockOptions): Promise<AsyncDisposable> {
    mkdirSync(this.dir, { recursive: true, mode: DIRECTORY_MODE });
    return lockFile(join(this.dir, file), options);
  }

  #refFile(name: string): string {
    return join(this.dir, "refs", refFileName(name));
  }

  #pointed(name: string): { readonly digest: string; readonly mark: string } | null {
    const [digest = "", mark = ""] = readOrNull(this.#refFile(name))?.split("\n") ?? [];
    return DIGEST.test(digest) ? { digest, mark } : null;
  }

  #names(): readonly (readonly [name: string, digest: string])[] {
    return listOrEmpty(join(this.dir, "refs")).flatMap((file) => {
      if (file.endsWith("~")) return [];
      const name = decodeURIComponent(file);
      const pointed = this.#pointed(name);
      return pointed === null ? [] : [[name, pointed.digest] as const];
    });
  }

  #configOrNull(digest: string): ImageConfig | null {
    try {
      return this.resolve(digest).config;
    } catch (error) {
      if (error instanceof BulkheadError && error.code === "IMAGE_INVALID") return null;
      throw error;
    }
  }
}

function isDirectory(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

function idOf(digest: string): string {
  return digest.replace(":", "-");
}

/** The names that a reference may have here, the more certain first. @throws BulkheadError SPEC_INVALID, NOT_SUPPORTED */
function namesOf(reference: string): readonly string[] {
  const own = NAME.test(reference) && nameFits(reference) ? [reference] : [];
  try {
    return [...own, parseReference(reference).name];
  } catch (error) {
    if (own.length === 0) throw error;
    return own;
  }
}

function absent(reference: string): BulkheadError {
  const next = BUILT_HERE.includes(reference)
    ? 'run "bulkhead image build-base" to build it'
    : `run "bulkhead image pull ${reference}", or "bulkhead image list" to see what is there`;
  return new BulkheadError("IMAGE_NOT_FOUND", { what: `image "${reference}" is not in the store`, next });
}

/** A name of the caller's own, or a whole reference. */
function checkedName(name: string): string {
  if (namesOf(name).includes(name)) return name;
  throw new BulkheadError("SPEC_INVALID", {
    what: `${JSON.stringify(name)} cannot be the name of an image`,
    next: "use lower-case letters, digits and single . _ - / : between them, or a reference with registry and tag",
  });
}

/** Everything written below `dir` reaches the disk. */
export async function syncTo(dir: string): Promise<void> {
  await runChecked(["sync", "--file-system", dir], { failure: "IMAGE_BUILD_FAILED", timeoutMs: SYNC_TIMEOUT_MS });
}

function unfinishedName(kind: "new" | "trash"): string {
  return `.${kind}-${processIdentity(process.pid)}-${randomBytes(8).toString("hex")}`;
}

function mtimeMs(path: string): number {
  return lstatSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

function parseConfig(text: string | null, digest: string): ImageConfig {
  try {
    const config = JSON.parse(text ?? "") as Partial<ImageConfig>;
    const { version, env, user, workdir } = config;
    if (version === 1 && typeof env === "object" && typeof user === "string" && typeof workdir === "string") {
      return { ...NOTHING_SAID, ...config } as ImageConfig;
    }
  } catch {
    // Reported below, like a file of another shape.
  }
  throw new BulkheadError("IMAGE_INVALID", {
    what: `the configuration of image ${digest} cannot be read`,
    next: `run "bulkhead image remove ${digest}" and build it again`,
  });
}

function readOrNull(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}
