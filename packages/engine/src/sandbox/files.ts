import { BulkheadError } from "@bulkhead/contract";
import type { Readable } from "node:stream";
import { Malformed } from "../channel/codec.ts";
import { ByteQueue } from "../channel/byte-queue.ts";
import type { OpenMessage } from "../channel/grammar.ts";
import { answerOf, begin, call, type CallOptions, type Inside, records } from "./calls.ts";
import { type FileEntry, readFileEntry, toFileEntry } from "./entries.ts";
import { entryLimit, outputLimit } from "./errors.ts";
import { type FileContent, writeFile, type WriteOptions } from "./file-write.ts";
import { type GuestPath, MAX_MODE, pathBytes, quote, whole } from "./names.ts";
import { watch, type Watcher, type WatchOptions } from "./watch.ts";

const DEFAULT_MAX_BYTES = 64 * 1024 * 1024;
const DEFAULT_MAX_ENTRIES = 100_000;
const DIRECTORY_MODE = 0o755;
const MAX_DEPTH = 65_535;
/** The wire's "to the end". */
const TO_THE_END = 2n ** 64n - 1n;

/** `user` acts, by default the sandbox's user; relative paths start at that user's home. */
export interface FileOptions extends CallOptions {
  readonly user?: string;
}

export interface ReadOptions extends FileOptions {
  /** First byte, from 0. */
  readonly offset?: number;
  /** At most so many bytes. Default: to the end. */
  readonly length?: number;
}

export interface ListOptions extends FileOptions {
  /** 1 (default): the directory's own entries; 2: one level more; … */
  readonly depth?: number;
}

/** Files inside the sandbox. Paths from inside are data: none is ever used as a path of the host. */
export class Files {
  readonly #inside: Inside;

  constructor(inside: Inside) {
    this.#inside = inside;
  }

  /** The whole file, or the part asked for. More than `maxBytes` (default 64 MiB) rejects with OUTPUT_LIMIT. */
  async read(path: GuestPath, options: ReadOptions & { readonly maxBytes?: number } = {}): Promise<Buffer> {
    const maxBytes = options.maxBytes ?? DEFAULT_MAX_BYTES;
    const subject = `file ${quote(path)}`;
    const { stream, done } = begin(this.#inside, readRequest(path, options), subject, options);
    const queue = new ByteQueue();
    let over = false;
    const full = Promise.withResolvers<never>();
    stream.out.consume((piece) => {
      if (over) return;
      over = queue.length + piece.length > maxBytes;
      if (over) full.reject(outputLimit(subject, maxBytes, "maxBytes"));
      else queue.append(piece);
    }, ignore);
    full.promise.catch(ignore);
    try {
      await Promise.race([done, full.promise]);
      return queue.takeAll();
    } finally {
      stream.cancel();
    }
  }

  /** As UTF-8; bytes that are none become U+FFFD. */
  async readText(path: GuestPath, options: ReadOptions & { readonly maxBytes?: number } = {}): Promise<string> {
    return (await this.read(path, options)).toString("utf8");
  }

  /** Resolves when the file is open. Destroying the stream ends the reading. */
  async readStream(path: GuestPath, options: ReadOptions = {}): Promise<Readable> {
    const { stream, opened } = begin(this.#inside, readRequest(path, options), `file ${quote(path)}`, options);
    const readable = stream.out.readable(() => stream.cancel());
    await opened;
    return readable;
  }

  async write(path: GuestPath, content: FileContent, options: WriteOptions = {}): Promise<{ readonly bytes: number }> {
    return writeFile(this.#inside, path, content, options);
  }

  /** @param options.follow what a symbolic link points to. Default true. */
  async stat(path: GuestPath, options: FileOptions & { readonly follow?: boolean } = {}): Promise<FileEntry> {
    const body = { path: pathBytes(path), follow: options.follow ?? true, user: options.user ?? "" };
    const answers = await call(this.#inside, { name: "Stat", body }, `file ${quote(path)}`, options);
    try {
      return toFileEntry(answerOf(answers, "StatResult").entry);
    } catch (error) {
      if (!(error instanceof Malformed)) throw error;
      this.#inside.channel.violation(error);
      throw await this.#inside.channel.closed;
    }
  }

  /** False only when it is known not to be there; every other failure rejects. Does not follow a link at the end. */
  async exists(path: GuestPath, options: FileOptions = {}): Promise<boolean> {
    try {
      await this.stat(path, { ...options, follow: false });
      return true;
    } catch (error) {
      if (error instanceof BulkheadError && (error.code === "FILE_NOT_FOUND" || error.code === "FILE_NOT_A_DIRECTORY"))
        return false;
      throw error;
    }
  }

  /** More than `maxEntries` (default 100,000) rejects with OUTPUT_LIMIT. */
  async list(path: GuestPath, options: ListOptions & { readonly maxEntries?: number } = {}): Promise<FileEntry[]> {
    const maxEntries = options.maxEntries ?? DEFAULT_MAX_ENTRIES;
    const found: FileEntry[] = [];
    for await (const entry of this.entries(path, options)) {
      if (found.length >= maxEntries) throw entryLimit(`directory ${quote(path)}`, maxEntries);
      found.push(entry);
    }
    return found;
  }

  /** Entries as they come, however many. Leaving the loop ends the listing. */
  entries(path: GuestPath, options: ListOptions = {}): AsyncGenerator<FileEntry, void, undefined> {
    const body = {
      path: pathBytes(path),
      depth: whole(options.depth ?? 1, "depth", 1, MAX_DEPTH),
      user: options.user ?? "",
    };
    return records(this.#inside, { name: "ListDirectory", body }, `directory ${quote(path)}`, readFileEntry, options);
  }

  /** @param options.parents also missing ones above; an existing directory is then no failure. Default mode 0755. */
  async mkdir(
    path: GuestPath,
    options: FileOptions & { readonly mode?: number; readonly parents?: boolean } = {},
  ): Promise<void> {
    const body = {
      path: pathBytes(path),
      mode: whole(options.mode ?? DIRECTORY_MODE, "mode", 0, MAX_MODE),
      parents: options.parents ?? false,
      user: options.user ?? "",
    };
    await call(this.#inside, { name: "MakeDirectory", body }, `directory ${quote(path)}`, options);
  }

  /** @param options.overwrite replaces what is there. Default false: FILE_EXISTS. */
  async move(
    from: GuestPath,
    to: GuestPath,
    options: FileOptions & { readonly overwrite?: boolean } = {},
  ): Promise<void> {
    const body = {
      from: pathBytes(from),
      to: pathBytes(to),
      overwrite: options.overwrite ?? false,
      user: options.user ?? "",
    };
    await call(this.#inside, { name: "Move", body }, `move of ${quote(from)} to ${quote(to)}`, options);
  }

  async remove(path: GuestPath, options: FileOptions & { readonly recursive?: boolean } = {}): Promise<void> {
    const body = { path: pathBytes(path), recursive: options.recursive ?? false, user: options.user ?? "" };
    await call(this.#inside, { name: "Remove", body }, `file ${quote(path)}`, options);
  }

  async chmod(path: GuestPath, mode: number, options: FileOptions = {}): Promise<void> {
    const body = { path: pathBytes(path), mode: whole(mode, "mode", 0, MAX_MODE), user: options.user ?? "" };
    await call(this.#inside, { name: "ChangeMode", body }, `file ${quote(path)}`, options);
  }

  /** Names or numbers; what is left out stays. */
  async chown(
    path: GuestPath,
    to: { readonly owner?: string | number; readonly group?: string | number },
    options: FileOptions = {},
  ): Promise<void> {
    const body = {
      path: pathBytes(path),
      owner: String(to.owner ?? ""),
      group: String(to.group ?? ""),
      user: options.user ?? "",
    };
    await call(this.#inside, { name: "ChangeOwner", body }, `file ${quote(path)}`, options);
  }

  /** Makes `path` a link that points to `target`, which need not exist. */
  async symlink(target: GuestPath, path: GuestPath, options: FileOptions = {}): Promise<void> {
    const body = { path: pathBytes(path), target: pathBytes(target), user: options.user ?? "" };
    await call(this.#inside, { name: "MakeSymlink", body }, `link ${quote(path)}`, options);
  }

  /** Of the last change, in nanoseconds since 1970; of a link its own. */
  async setModified(path: GuestPath, modifiedNs: bigint, options: FileOptions = {}): Promise<void> {
    const body = { path: pathBytes(path), mtimeNs: modifiedNs, user: options.user ?? "" };
    await call(this.#inside, { name: "ChangeTime", body }, `file ${quote(path)}`, options);
  }

  async watch(path: GuestPath, options: WatchOptions = {}): Promise<Watcher> {
    return watch(this.#inside, path, options);
  }
}

function readRequest(path: GuestPath, options: ReadOptions): OpenMessage {
  const { offset = 0, length } = options;
  const body = {
    path: pathBytes(path),
    offset: count(offset, "offset"),
    length: length === undefined ? TO_THE_END : count(length, "length"),
    user: options.user ?? "",
  };
  return { name: "ReadFile", body };
}

function count(value: number, name: string): bigint {
  return BigInt(whole(value, name, 0, Number.MAX_SAFE_INTEGER));
}

function ignore(): void {}
