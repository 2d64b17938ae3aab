import { BulkheadError } from "@bulkhead/contract";
import { PassThrough, Readable } from "node:stream";
import type { Copied, CopyOptions } from "../sandbox/copy.ts";
import type { CopyTarget } from "../sandbox/copy-in.ts";
import type { CopyOutOptions, CopySource } from "../sandbox/copy-out.ts";
import type { FileEntry } from "../sandbox/entries.ts";
import type { FileContent, WriteOptions } from "../sandbox/file-write.ts";
import type { FileOptions, ListOptions } from "../sandbox/files.ts";
import { type GuestPath, pathBytes } from "../sandbox/names.ts";
import { Conversation, type ConversationOptions, fill } from "./client.ts";
import type { ListedSandbox, SentEntry } from "./operations.ts";
import type { ControlDirectory } from "./place.ts";
import { RemoteExecution, type RemoteExecOptions } from "./remote-exec.ts";

const DIRECTORY_MODE = 0o755;
const FILE_MODE = 0o644;

/** Asks something of one sandbox. */
export type Asking = (
  request: Readonly<Record<string, unknown>>,
  options: ConversationOptions,
) => Promise<Conversation>;

const base64 = (path: GuestPath): string => Buffer.from(pathBytes(path)).toString("base64");

const toEntry = ({ pathBytes: path, targetBytes, ...entry }: SentEntry): FileEntry => ({
  ...entry,
  pathBytes: Buffer.from(path, "base64"),
  targetBytes: targetBytes === null ? null : Buffer.from(targetBytes, "base64"),
});

async function* bytesOf(content: FileContent): AsyncGenerator<Uint8Array> {
  if (typeof content === "string" || content instanceof Uint8Array) yield Buffer.from(content as string);
  else for await (const piece of content) yield Buffer.from(piece as string);
}

type RemoteOperations = CopyTarget & CopySource["files"];

/** Files of a sandbox that another process holds. Errors are those of `Files`, and SANDBOX_GONE when that process ends. */
export class RemoteFiles implements RemoteOperations {
  readonly #ask: Asking;

  constructor(ask: Asking) {
    this.#ask = ask;
  }

  async #call(request: Readonly<Record<string, unknown>>, { user, signal }: FileOptions): Promise<unknown> {
    using asked = await this.#ask({ ...request, user }, { signal });
    return await asked.result;
  }

  async stat(path: GuestPath, options: FileOptions & { readonly follow?: boolean } = {}): Promise<FileEntry> {
    const request = { op: "stat", path: base64(path), follow: options.follow ?? true };
    return toEntry((await this.#call(request, options)) as SentEntry);
  }

  async *entries(path: GuestPath, options: ListOptions = {}): AsyncGenerator<FileEntry, void, undefined> {
    if (options.depth !== undefined && options.depth !== 1)
      throw new BulkheadError("NOT_SUPPORTED", { what: "another process's sandbox lists one directory at a time" });
    // A directory inside may have any number of entries: no more are asked for than are taken.
    const parts = new PassThrough({ objectMode: true, highWaterMark: 1 });
    const onItem = (item: unknown): Promise<void> => fill(parts, item);
    const request = { op: "entries", path: base64(path), user: options.user };
    using asked = await this.#ask(request, { signal: options.signal, onItem });
    asked.result.then(
      () => parts.end(),
      (error: unknown) => parts.destroy(error as Error),
    );
    for await (const part of parts) yield* (part as SentEntry[]).map(toEntry);
  }

  async readStream(path: GuestPath, options: FileOptions = {}): Promise<Readable> {
    const asked = await this.#ask({ op: "read", path: base64(path), user: options.user }, { signal: options.signal });
    await asked.started;
    async function* whole(): AsyncGenerator<Buffer> {
      // Whoever stops reading calls it off; an end that is none fails.
      using reading = asked;
      for await (const piece of reading.out) yield piece as Buffer;
      await reading.result;
    }
    return Readable.from(whole(), { objectMode: false });
  }

  async write(path: GuestPath, content: FileContent, options: WriteOptions = {}): Promise<{ readonly bytes: number }> {
    const { user, mode = FILE_MODE, atomic = false, signal } = options;
    using asked = await this.#ask({ op: "write", path: base64(path), mode, atomic, user }, { signal });
    for await (const piece of bytesOf(content)) await asked.write(piece);
    await asked.end();
    return (await asked.result) as { bytes: number };
  }

  async mkdir(
    path: GuestPath,
    options: FileOptions & { readonly mode?: number; readonly parents?: boolean } = {},
  ): Promise<void> {
    const { mode = DIRECTORY_MODE, parents = false } = options;
    await this.#call({ op: "mkdir", path: base64(path), mode, parents }, options);
  }

  async symlink(target: GuestPath, path: GuestPath, options: FileOptions = {}): Promise<void> {
    await this.#call({ op: "symlink", path: base64(path), target: base64(target) }, options);
  }

  async chmod(path: GuestPath, mode: number, options: FileOptions = {}): Promise<void> {
    await this.#call({ op: "chmod", path: base64(path), mode }, options);
  }

  async setModified(path: GuestPath, modifiedNs: bigint, options: FileOptions = {}): Promise<void> {
    await this.#call({ op: "setModified", path: base64(path), modifiedNs: `${modifiedNs}` }, options);
  }
}

/** A running sandbox that another process of this host holds. It goes on when this is disposed of. */
export class RemoteSandbox implements CopySource, AsyncDisposable {
  readonly about: ListedSandbox;
  readonly files: RemoteFiles;
  readonly #directory: ControlDirectory;

  constructor(about: ListedSandbox, directory: ControlDirectory) {
    this.about = about;
    this.#directory = directory;
    this.files = new RemoteFiles(this.#ask);
  }

  readonly #ask: Asking = (request, options) =>
    Conversation.begin(this.#directory, { sandbox: this.about.id, ...request }, options);

  /** As `Sandbox.copyIn`: by this process's own rights and view of the host. */
  async copyIn(from: string, to: GuestPath, options: CopyOptions = {}): Promise<Copied> {
    return await (await import("../sandbox/copy-in.ts")).copyIn(this.files, from, to, options);
  }

  /** As `Sandbox.copyOut`: what is made belongs to this process's user. */
  async copyOut(from: GuestPath, to: string, options: CopyOutOptions = {}): Promise<Copied> {
    return await (await import("../sandbox/copy-out.ts")).copyOut(this, from, to, options);
  }

  async distrust(why: string): Promise<BulkheadError> {
    using asked = await this.#ask({ op: "distrust", why }, {});
    return await asked.result.then(
      () => new BulkheadError("INTERNAL", { what: "a sandbox that is not trusted goes on" }),
      (error: unknown) => error as BulkheadError,
    );
  }

  /** Starts a program. It ends when this process ends. @throws BulkheadError as `Sandbox.exec` */
  async exec(argv: readonly string[], options: RemoteExecOptions = {}): Promise<RemoteExecution> {
    return await RemoteExecution.start(this.#ask, argv, options);
  }

  /** As `Sandbox.stop`. */
  async stop(options: { readonly timeoutMs?: number; readonly signal?: AbortSignal } = {}): Promise<void> {
    const { timeoutMs, signal } = options;
    using asked = await this.#ask({ op: "stop", ...(timeoutMs !== undefined && { timeoutMs }) }, { signal });
    await asked.result;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#directory[Symbol.asyncDispose]();
  }
}
