import { BulkheadError } from "@bulkhead/contract";
import type { ChannelStream } from "../channel/stream.ts";
import { WriteMode } from "../channel/wire.gen.ts";
import { answerOf, begin, type CallOptions, type Inside } from "./calls.ts";
import { safeNumber } from "./errors.ts";
import { type GuestPath, MAX_MODE, pathBytes, quote, whole } from "./names.ts";

const DEFAULT_MODE = 0o644;
/** One window of the wire: enough that the next piece is ready when the agent asks for it. */
const PIECE_BYTES = 256 * 1024;

/** Pieces from a Readable or any async source are strings (UTF-8) or bytes. */
export type FileContent = string | Uint8Array | AsyncIterable<string | Uint8Array> | Iterable<Uint8Array>;

export interface WriteOptions extends CallOptions {
  /** Permission bits of a new file. Default 0644. */
  readonly mode?: number;
  /** At most one of the three. Default: the file is emptied first. */
  readonly append?: boolean;
  /** Fails with FILE_EXISTS when there is one. */
  readonly exclusive?: boolean;
  /** Written beside and renamed at the end: readers see the old file or the new one, whole. */
  readonly atomic?: boolean;
  /** Makes missing directories. */
  readonly parents?: boolean;
  readonly user?: string;
}

/** A source that throws leaves no file when `atomic`, else what was written so far. @returns bytes written. */
export async function writeFile(
  inside: Inside,
  path: GuestPath,
  content: FileContent,
  options: WriteOptions = {},
): Promise<{ readonly bytes: number }> {
  const subject = `file ${quote(path)}`;
  const body = {
    path: pathBytes(path),
    mode: whole(options.mode ?? DEFAULT_MODE, "mode", 0, MAX_MODE),
    how: writeMode(options),
    makeParents: options.parents ?? false,
    user: options.user ?? "",
  };
  const { stream, opened, done } = begin(inside, { name: "WriteFile", body }, subject, options);
  try {
    await opened;
    for await (const piece of pieces(content)) {
      if (stream.over) break;
      await send(stream, piece);
    }
    stream.in.end();
    return { bytes: safeNumber(answerOf(await done, "Written").bytes) };
  } finally {
    stream.cancel();
  }
}

function send(stream: ChannelStream, piece: Uint8Array): Promise<void> {
  return new Promise((resolve) => stream.in.write(piece, resolve));
}

async function* pieces(content: FileContent): AsyncGenerator<Uint8Array> {
  if (typeof content === "string" || content instanceof Uint8Array) {
    const bytes = typeof content === "string" ? Buffer.from(content) : content;
    for (let at = 0; at < bytes.length; at += PIECE_BYTES) yield bytes.subarray(at, at + PIECE_BYTES);
    return;
  }
  for await (const piece of content) yield typeof piece === "string" ? Buffer.from(piece) : piece;
}

function writeMode(options: WriteOptions): number {
  const { append, exclusive, atomic } = options;
  const chosen = Object.entries({ append, exclusive, atomic }).filter(([, value]) => value === true);
  if (chosen.length > 1) {
    const names = chosen.map(([name]) => name).join(" and ");
    throw new BulkheadError("SPEC_INVALID", { what: `${names} exclude each other`, next: "give one of them" });
  }
  if (append === true) return WriteMode.append;
  if (exclusive === true) return WriteMode.exclusive;
  return atomic === true ? WriteMode.atomic : WriteMode.truncate;
}
