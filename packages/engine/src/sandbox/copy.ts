import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { getSystemErrorMessage } from "node:util";
import { BulkheadError } from "@bulkhead/contract";
import type { CallOptions } from "./calls.ts";

/** As for `list` of files. */
const DEFAULT_MAX_ENTRIES = 100_000;
/** No sandbox's disk is larger unless somebody has said so. */
const DEFAULT_MAX_BYTES = 64 * 1024 ** 3;
/** One open directory each; as deep as the agent lists. */
export const MAX_DEPTH = 128;
/** Under way at once: enough to hide the way there and back, few enough to leave descriptors to others. */
const FILES_AT_ONCE = 16;
/** What is copied of a mode: no set-user-id, set-group-id or sticky bit crosses the boundary. */
export const COPIED_MODE = 0o777;

export interface CopyOptions extends CallOptions {
  /** Who acts inside. Default: the sandbox's user. */
  readonly user?: string;
  /** More than so many bytes or entries reject with OUTPUT_LIMIT. Default 64 GiB and 100,000. */
  readonly maxBytes?: number;
  readonly maxEntries?: number;
  /** Told often what has been copied so far. */
  readonly onCopied?: (copied: Copied) => void;
}

export interface Copied {
  readonly files: number;
  readonly directories: number;
  readonly links: number;
  readonly bytes: number;
  /** FIFOs, sockets and devices, which are not copied. */
  readonly leftOut: number;
}

/** Counts what is copied, and ends it at its bounds. */
export class Tally {
  readonly #subject: string;
  readonly #maxBytes: number;
  readonly #maxEntries: number;
  readonly #counts = { files: 0, directories: 0, links: 0, leftOut: 0 };
  readonly #onCopied: CopyOptions["onCopied"];
  #bytes = 0;
  #entries = 0;

  constructor(subject: string, options: CopyOptions) {
    const { maxBytes = DEFAULT_MAX_BYTES, maxEntries = DEFAULT_MAX_ENTRIES } = options;
    this.#subject = subject;
    this.#onCopied = options.onCopied;
    this.#maxBytes = maxBytes;
    this.#maxEntries = maxEntries;
  }

  get copied(): Copied {
    return { ...this.#counts, bytes: this.#bytes };
  }

  /** How many entries there may still be. */
  get room(): number {
    return this.#maxEntries - this.#entries;
  }

  entry(kind: keyof Omit<Copied, "bytes">): void {
    this.#entries += 1;
    this.#counts[kind] += 1;
    if (this.#entries > this.#maxEntries) throw this.#over(`${this.#maxEntries} entries`, "maxEntries");
    this.#onCopied?.(this.copied);
  }

  take(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes > this.#maxBytes) throw this.#over(`${this.#maxBytes} bytes`, "maxBytes");
    this.#onCopied?.(this.copied);
  }

  #over(most: string, option: string): BulkheadError {
    return new BulkheadError("OUTPUT_LIMIT", {
      what: `${this.#subject} has more than ${most}`,
      next: `raise ${option}, or copy a part of it`,
    });
  }
}

export function refused(what: string, why: string, next: string): BulkheadError {
  return new BulkheadError("COPY_REFUSED", { what, why, next });
}

/**
 * What is called `name` in an open directory of the host's, one name deep: whoever renames or replaces directories above
 * meanwhile changes nothing about where that is.
 */
export function within(directory: FileHandle, name: string | Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(`/proc/self/fd/${directory.fd}/`), Buffer.from(name as Uint8Array)]);
}

/** The directory of that name itself, never what a link in its place leads to. */
export function openDirectory(path: string | Buffer): Promise<FileHandle> {
  return open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
}

/** @throws BulkheadError HOST_RESOURCE in place of the host's own error; others as they are */
export async function onHost<T>(what: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    if (cause instanceof BulkheadError || !(cause instanceof Error) || !("syscall" in cause)) throw cause;
    const { errno, code = "" } = cause as NodeJS.ErrnoException;
    const said = errno === undefined ? code : `${getSystemErrorMessage(errno)} (${code})`;
    throw new BulkheadError("HOST_RESOURCE", {
      what,
      why: `the host says: ${said}`,
      next: "put that right, then try again",
      cause,
    });
  }
}

/** Does `work` for each, some at a time; the first failure stops the rest and is the result. */
export async function some<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const queue = items.values();
  let failed = false;
  const worker = async (): Promise<void> => {
    for (const item of queue) {
      if (failed) return;
      await work(item).catch((error: unknown) => {
        failed = true;
        throw error;
      });
    }
  };
  const workers = Array.from({ length: Math.min(FILES_AT_ONCE, items.length) }, worker);
  // All of them have let go of what they held before the failure is told.
  await Promise.allSettled(workers);
  await Promise.all(workers);
}
