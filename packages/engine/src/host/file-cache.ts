import { createHash, randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { pipeline } from "node:stream/promises";

interface Entry {
  /** Changes whenever the file does. */
  readonly key: string;
  readonly digest: string;
  readonly note: string;
}

export interface Identified {
  /** sha256 of the content, hex. */
  readonly digest: string;
  /** What `describe` said of this very content. */
  readonly note: string;
}

const isEntry = (value: unknown): value is Entry =>
  typeof value === "object" &&
  value !== null &&
  ["key", "digest", "note"].every((name) => typeof (value as Record<string, unknown>)[name] === "string");

/** Another one whenever the file that `path` leads to is another or has changed. @throws the file system's error */
export async function fileKey(path: string): Promise<string> {
  const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
  return [dev, ino, size, mtimeNs, ctimeNs].join(":");
}

async function digestOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash);
  return hash.digest("hex");
}

/** Digests of large files, remembered between processes by path, device, inode, size and time of change. */
export class FileCache {
  readonly #path: string;
  readonly #entries: Map<string, Entry>;
  #changed = false;

  private constructor(path: string, entries: Map<string, Entry>) {
    this.#path = path;
    this.#entries = entries;
  }

  /** A missing or damaged cache is an empty one. */
  static async open(path: string): Promise<FileCache> {
    const entries = new Map<string, Entry>();
    try {
      const stored: unknown = JSON.parse(await readFile(path, "utf8"));
      for (const [name, entry] of Object.entries(stored ?? {})) if (isEntry(entry)) entries.set(name, entry);
    } catch {
      return new FileCache(path, new Map());
    }
    return new FileCache(path, entries);
  }

  /** @throws the file system's error when `path` cannot be read, or what `describe` throws. */
  async identify(path: string, describe: () => Promise<string> = async () => ""): Promise<Identified> {
    const key = await fileKey(path);
    const known = this.#entries.get(path);
    if (known?.key === key) return known;
    const entry = { key, digest: await digestOf(path), note: await describe() };
    this.#entries.set(path, entry);
    this.#changed = true;
    return entry;
  }

  /** Writes what is new. Where the state directory cannot be written the next process works it out again. */
  async save(): Promise<void> {
    if (!this.#changed) return;
    await writeAtomically(this.#path, JSON.stringify(Object.fromEntries(this.#entries))).catch(() => undefined);
    this.#changed = false;
  }
}

/** Readers see the old content or the new, never a part. */
export async function writeAtomically(path: string, content: string | Uint8Array): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o755 });
  const draft = `${path}.${randomBytes(6).toString("hex")}`;
  await writeFile(draft, content, { mode: 0o644, flag: "wx" });
  await rename(draft, path);
}
