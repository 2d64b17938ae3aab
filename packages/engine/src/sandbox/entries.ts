import { Malformed, type WireReader } from "../channel/codec.ts";
import { type Entry, EntryKind, readEntry } from "../channel/wire.gen.ts";
import { safeNumber, untrustedText } from "./errors.ts";
import { textOf } from "./names.ts";

export type FileKind = keyof typeof EntryKind;

/** One file inside. Text is for people; `pathBytes` and `targetBytes` lead back to the file also when names are not UTF-8. */
export interface FileEntry {
  readonly path: string;
  readonly pathBytes: Uint8Array;
  readonly kind: FileKind;
  /** Permission bits, set-id and sticky bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Empty when the image has no name for it. */
  readonly owner: string;
  readonly group: string;
  /** Bytes. */
  readonly size: number;
  /** Milliseconds since 1970, with a fraction. */
  readonly modifiedMs: number;
  /** Where a symbolic link points; else null. */
  readonly target: string | null;
  readonly targetBytes: Uint8Array | null;
}

const KINDS: ReadonlyMap<number, FileKind> = new Map(
  Object.entries(EntryKind).map(([name, number]) => [number, name as FileKind]),
);
const NS_PER_MS = 1e6;
const MODE_BITS = 0o7777;

/** @throws Malformed for a kind the wire does not have. */
export function toFileEntry(entry: Entry): FileEntry {
  const kind = KINDS.get(entry.kind);
  if (kind === undefined) throw new Malformed("a file of an unknown kind");
  const link = kind === "symlink";
  return {
    path: textOf(entry.path),
    pathBytes: entry.path,
    kind,
    mode: entry.mode & MODE_BITS,
    uid: entry.uid,
    gid: entry.gid,
    owner: untrustedText(entry.owner),
    group: untrustedText(entry.group),
    size: safeNumber(entry.size),
    modifiedMs: Number(entry.mtimeNs) / NS_PER_MS,
    target: link ? textOf(entry.target) : null,
    targetBytes: link ? entry.target : null,
  };
}

export function readFileEntry(reader: WireReader): FileEntry {
  return toFileEntry(readEntry(reader));
}
