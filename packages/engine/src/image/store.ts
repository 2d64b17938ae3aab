import { randomBytes } from "node:crypto";
import { existsSync, lstatSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import type { ImageFiles } from "../drivers/driver.ts";
import { lockFile, type FileLockOptions } from "../system/file-lock.ts";
import { runChecked } from "../system/process.ts";
import { removeTree } from "../system/remove-tree.ts";
import { Holds, listOrEmpty } from "./holds.ts";

/** Root only: root file systems hold set-user-id programs that no user of the host may reach. */
const DIRECTORY_MODE = 0o700;
const MAX_NAME_CHARACTERS = 200;
const NAME = /^[a-z0-9]+(?:[._/:-][a-z0-9]+)*$/;
const DIGEST = /^sha256:[0-9a-f]{64}$/;
const UNFINISHED = /^\.(?:new|trash)-/;
/** The part of a configuration that only programs made for containers have a use for, empty. */
export const NOTHING_SAID = {
  entrypoint: [],
  cmd: [],
  stopSignal: null,
  exposedPorts: [],
  volumes: [],
  labels: {},
} as const;
const SYNC_TIMEOUT_MS = 5 * 60_000;

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
}

/**
 * Images by content, under `<state>/images`: `sha256-<hex>/{rootfs,config.json}`, and `refs/<name>` holding a digest.
 * An image appears by one rename when it is whole and leaves by one rename; `.new-*` and `.trash-*` are what a process
 * that was killed left behind, and go when the next image is built.
 */
export class ImageStore {
  readonly #dir: string;
  readonly #holds: Holds;

  constructor(stateDir: string) {
    this.#dir = resolve(stateDir, "images");
    this.#holds = new Holds(join(this.#dir, "holds"));
  }

  /** @throws BulkheadError IMAGE_NOT_FOUND, IMAGE_INVALID; SPEC_INVALID when `reference` cannot be a name */
  resolve(reference: string): StoredImage {
    const digest = this.#locate(reference);
    const text = readOrNull(join(this.#dir, idOf(digest), "config.json"));
    return { ...this.#files(reference, digest), config: parseConfig(text, digest) };
  }

  #files(reference: string, digest: string): ImageFiles {
    const rootfs = join(this.#dir, idOf(digest), "rootfs");
    return {
      reference,
      digest,
      rootfs,
      usrBin: isDirectory(join(rootfs, "usr")) && isDirectory(join(rootfs, "usr/bin")),
    };
  }

  /** @throws BulkheadError IMAGE_NOT_FOUND, SPEC_INVALID */
  #locate(reference: string): string {
    const digest = DIGEST.test(reference) ? reference : this.#digestOf(checkedName(reference));
    if (digest !== null && existsSync(join(this.#dir, idOf(digest)))) return digest;
    const next =
      reference === "base"
        ? 'run "bulkhead image build-base" to build it'
        : 'run "bulkhead image list" to see what is there';
    throw new BulkheadError("IMAGE_NOT_FOUND", { what: `image "${reference}" is not in the store`, next });
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
    const images = listOrEmpty(this.#dir).flatMap((id): ListedImage[] => {
      const digest = id.replace("-", ":");
      if (!DIGEST.test(digest)) return [];
      const own = (names.get(digest) ?? []).map(([name]) => name).toSorted();
      return [
        {
          ...this.#files(own[0] ?? digest, digest),
          config: this.#configOrNull(digest),
          names: own,
          users: this.#holds.users(id),
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
    await using _lock = await this.#lock("lock", signal === undefined ? {} : { signal });
    const digest = this.#locate(reference);
    const all = this.#names().flatMap(([name, to]) => (to === digest ? [name] : []));
    const names = DIGEST.test(reference) ? all : [reference];
    if (names.length < all.length) {
      for (const name of names) rmSync(this.#refFile(name));
      return { names, image: false };
    }
    const id = idOf(digest);
    using _closed = this.#holds.forbid(id, reference);
    const trash = join(this.#dir, `.trash-${randomBytes(8).toString("hex")}`);
    for (const name of names) rmSync(this.#refFile(name));
    renameSync(join(this.#dir, id), trash);
    await removeTree(trash, this.#dir);
    return { names, image: true };
  }

  /**
   * Makes room for one new image. Only one process builds at a time; the others wait here. What dead builders left is
   * swept first. The directory is gone after disposal unless it was committed.
   */
  async begin(options: FileLockOptions): Promise<{ readonly dir: string } & AsyncDisposable> {
    mkdirSync(this.#dir, { recursive: true, mode: DIRECTORY_MODE });
    await using stack = new AsyncDisposableStack();
    stack.use(await this.#lock("build.lock", options));
    for (const name of listOrEmpty(this.#dir)) {
      if (UNFINISHED.test(name)) await removeTree(join(this.#dir, name), this.#dir);
    }
    const dir = join(this.#dir, `.new-${randomBytes(8).toString("hex")}`);
    mkdirSync(dir, { mode: DIRECTORY_MODE });
    stack.defer(() => removeTree(dir, this.#dir));
    const owned = stack.move();
    return { dir, [Symbol.asyncDispose]: () => owned.disposeAsync() };
  }

  /** Moves a finished `<dir>/rootfs` into the store under its digest and points `name` to it. */
  async commit(dir: string, digest: string, config: ImageConfig, name: string): Promise<StoredImage> {
    checkedName(name);
    writeFileSync(join(dir, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
    // Contents reach the disk before the name does: a power cut must not leave an image that is half there.
    await runChecked(["sync", "--file-system", dir], { failure: "IMAGE_BUILD_FAILED", timeoutMs: SYNC_TIMEOUT_MS });
    await using _lock = await this.#lock("lock", {});
    const target = join(this.#dir, idOf(digest));
    if (!existsSync(target)) renameSync(dir, target);
    const ref = this.#refFile(name);
    mkdirSync(join(this.#dir, "refs"), { recursive: true, mode: DIRECTORY_MODE });
    writeFileSync(`${ref}~`, `${digest}\n`);
    renameSync(`${ref}~`, ref);
    return this.resolve(name);
  }

  #lock(file: string, options: FileLockOptions): Promise<AsyncDisposable> {
    mkdirSync(this.#dir, { recursive: true, mode: DIRECTORY_MODE });
    return lockFile(join(this.#dir, file), options);
  }

  #refFile(name: string): string {
    return join(this.#dir, "refs", encodeURIComponent(name));
  }

  #digestOf(name: string): string | null {
    const digest = readOrNull(this.#refFile(name))?.trim();
    return digest !== undefined && DIGEST.test(digest) ? digest : null;
  }

  #names(): readonly (readonly [name: string, digest: string])[] {
    return listOrEmpty(join(this.#dir, "refs")).flatMap((file) => {
      if (file.endsWith("~")) return [];
      const name = decodeURIComponent(file);
      const digest = this.#digestOf(name);
      return digest === null ? [] : [[name, digest] as const];
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

function checkedName(name: string): string {
  if (NAME.test(name) && name.length <= MAX_NAME_CHARACTERS) return name;
  throw new BulkheadError("SPEC_INVALID", {
    what: `${JSON.stringify(name)} cannot be the name of an image`,
    next: `use lower-case letters, digits and single . _ - / : between them, at most ${MAX_NAME_CHARACTERS}, or a sha256 digest`,
  });
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
