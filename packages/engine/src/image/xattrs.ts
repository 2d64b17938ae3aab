import { runChecked } from "../system/process.ts";

const BLOCK_BYTES = 512;
const NAME_END = 100;
const SIZE_OFFSET = 124;
const SIZE_END = 136;
const TYPE_OFFSET = 156;
/** Extended headers of one file; far above what the kernel lets a file carry (64 KiB of attributes). */
const MAX_HEADER_BYTES = 1024 * 1024;
/** Under which tar keeps an attribute. */
const XATTR_KEY = "SCHILY.xattr.";
const TAR_TIMEOUT_MS = 10 * 60_000;

/** Attribute name to value in base64, sorted by name; by path as `walkTree` spells it. */
export type Xattrs = ReadonlyMap<string, Readonly<Record<string, string>>>;

/**
 * Reads `security.capability` and `user.*` of a tree. Node has no call for them; tar, which every Debian has, writes them
 * into its extended headers, of which only those are looked at here.
 *
 * @throws BulkheadError IMAGE_INVALID
 */
export async function readXattrs(root: string, signal?: AbortSignal): Promise<Xattrs> {
  const reader = new TarXattrs();
  const selection = ["--xattrs", "--xattrs-include=security.capability", "--xattrs-include=user.*"];
  await runChecked(["tar", "--create", "--format=posix", ...selection, "--file=-", "--directory", root, "."], {
    failure: "IMAGE_INVALID",
    timeoutMs: TAR_TIMEOUT_MS,
    onStdout: (chunk) => reader.push(chunk),
    ...(signal === undefined ? {} : { signal }),
  });
  return reader.found;
}

/** Reads a tar stream as it comes and keeps nothing but attributes. */
export class TarXattrs {
  readonly found = new Map<string, Record<string, string>>();
  #pending: Buffer = Buffer.alloc(0);
  #skip = 0;
  #extended: Map<string, Buffer> = new Map();

  push(chunk: Buffer): void {
    let rest = chunk;
    if (this.#pending.length > 0) rest = Buffer.concat([this.#pending, chunk]);
    let at = 0;
    for (;;) {
      const skipped = Math.min(this.#skip, rest.length - at);
      this.#skip -= skipped;
      at += skipped;
      if (this.#skip > 0 || rest.length - at < BLOCK_BYTES) break;
      const used = this.#member(rest, at);
      if (used === 0) break;
      at += used;
    }
    this.#pending = Buffer.from(rest.subarray(at));
  }

  /** @returns bytes used, 0 when more are needed */
  #member(buffer: Buffer, at: number): number {
    const header = buffer.subarray(at, at + BLOCK_BYTES);
    const size = Number.parseInt(field(header, SIZE_OFFSET, SIZE_END).trim() || "0", 8);
    const padded = Math.ceil(size / BLOCK_BYTES) * BLOCK_BYTES;
    const type = String.fromCharCode(header[TYPE_OFFSET] ?? 0);
    if (type === "x") {
      if (size > MAX_HEADER_BYTES) throw new RangeError(`extended header of ${size} bytes`);
      if (buffer.length - at < BLOCK_BYTES + padded) return 0;
      this.#extended = parseRecords(buffer.subarray(at + BLOCK_BYTES, at + BLOCK_BYTES + size));
      return BLOCK_BYTES + padded;
    }
    this.#keep(field(header, 0, NAME_END));
    // A size too large for the header's own field stands in the extended header.
    const realSize = Number(this.#extended.get("size")?.toString() ?? size);
    this.#extended = new Map();
    this.#skip = Math.ceil(realSize / BLOCK_BYTES) * BLOCK_BYTES;
    return BLOCK_BYTES;
  }

  #keep(shortName: string): void {
    const attributes = [...this.#extended].filter(([key]) => key.startsWith(XATTR_KEY));
    if (attributes.length === 0) return;
    const name = this.#extended.get("path")?.toString("latin1") ?? shortName;
    const path = name.replace(/^\.\/?/, "").replace(/\/$/, "");
    const pairs = attributes.map(([key, value]) => [key.slice(XATTR_KEY.length), value.toString("base64")] as const);
    this.found.set(path, Object.fromEntries(pairs.toSorted(([a], [b]) => (a < b ? -1 : 1))));
  }
}

function field(header: Buffer, start: number, end: number): string {
  return header.subarray(start, end).toString("latin1").split("\0", 1)[0] ?? "";
}

/** Records are `<decimal length> <key>=<value>\n`, the length counting the whole record. */
function parseRecords(data: Buffer): Map<string, Buffer> {
  const records = new Map<string, Buffer>();
  let at = 0;
  while (at < data.length) {
    const space = data.indexOf(0x20, at);
    const length = Number.parseInt(data.toString("latin1", at, space), 10);
    const equals = data.indexOf(0x3d, space);
    if (!(length > 0) || space < at || equals < space || at + length > data.length) break;
    records.set(data.toString("latin1", space + 1, equals), data.subarray(equals + 1, at + length - 1));
    at += length;
  }
  return records;
}
