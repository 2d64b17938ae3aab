import type { Stats } from "node:fs";
import { lstat, mkdir, mkdtemp, open, readdir, rename, stat, writeFile } from "node:fs/promises";
import { dirname, isAbsolute, join, normalize } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { processIdentity } from "../image/holds.ts";
import type { SnapshotInfo } from "../sandbox/saver.ts";
import { removeTree } from "../system/remove-tree.ts";
import { type Manifest, MANIFEST, manifestText, MAX_MANIFEST_BYTES, parseManifest } from "./manifest.ts";

/** Before the id of the process that makes it and a random end. */
const DRAFT_PREFIX = ".bulkhead-snapshot-";
const NAME = /^[a-z0-9][a-z0-9._-]{0,62}$/;
const OTHERS = 0o077;
const OTHERS_MAY_WRITE = 0o022;
const STICKY = 0o1000;

export interface Draft extends AsyncDisposable {
  /** Empty, root's alone. */
  readonly dir: string;
  /** Makes it a snapshot, at once and whole. */
  commit(manifest: Omit<Manifest, "version">): Promise<SnapshotInfo>;
}

export interface SavedSnapshot {
  readonly dir: string;
  readonly manifest: Manifest;
}

/**
 * Snapshots: directories of root's alone, by name under `<state>/snapshots` or anywhere by path. One appears by one rename
 * when it is whole; what a process that was killed left beside it goes when the next one is made or looked for there.
 */
export class SnapshotStore {
  readonly #home: string;

  constructor(stateDir: string) {
    this.#home = join(stateDir, "snapshots");
  }

  /**
   * @param where null: only passed through, never committed
   * @throws BulkheadError SPEC_INVALID, SNAPSHOT_EXISTS, HOST_RESOURCE
   */
  async begin(where: string | null): Promise<Draft> {
    const target = where === null ? null : this.#place(where);
    const above = target === null ? this.#home : dirname(target);
    try {
      if (above === this.#home) await mkdir(above, { recursive: true, mode: 0o700 });
      if (target !== null && (await statOrNull(target)) !== null)
        throw new BulkheadError("SNAPSHOT_EXISTS", { what: `something is at ${target} already` });
      await sweep(above);
      const dir = await mkdtemp(join(above, `${DRAFT_PREFIX}${processIdentity(process.pid)}-`));
      return {
        dir,
        commit: async (manifest) => {
          if (target === null) throw new BulkheadError("INTERNAL", { what: "this is no place for a snapshot" });
          await writeFile(join(dir, MANIFEST), manifestText(manifest), { flag: "wx", mode: 0o600 });
          await rename(dir, target);
          return infoOf(target, { ...manifest, version: 1 });
        },
        [Symbol.asyncDispose]: () => removeTree(dir, above),
      };
    } catch (cause) {
      if (cause instanceof BulkheadError) throw cause;
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new BulkheadError("HOST_RESOURCE", { what: `no snapshot can be made in ${above}`, why, cause });
    }
  }

  /** @throws BulkheadError SPEC_INVALID, SNAPSHOT_NOT_FOUND, SNAPSHOT_INVALID. Its other files are not looked at. */
  async open(where: string): Promise<SavedSnapshot> {
    const dir = this.#place(where);
    await sweep(dirname(dir));
    await requirePrivate(dir);
    return { dir, manifest: parseManifest(await manifestOf(dir), dir) };
  }

  /** Those that have a name, by name. What is damaged is left out. */
  async list(): Promise<readonly SnapshotInfo[]> {
    await sweep(this.#home);
    const found: SnapshotInfo[] = [];
    for (const name of (await namesIn(this.#home)).filter((one) => NAME.test(one)).toSorted()) {
      const saved = await this.open(name).catch(() => null);
      if (saved !== null) found.push(infoOf(saved.dir, saved.manifest));
    }
    return found;
  }

  /** Removes one, damaged or not. @throws BulkheadError SPEC_INVALID, SNAPSHOT_NOT_FOUND, SNAPSHOT_INVALID (it is none) */
  async remove(where: string): Promise<void> {
    const dir = this.#place(where);
    await requirePrivate(dir);
    if ((await statOrNull(join(dir, MANIFEST))) === null) throw invalid(dir, `it holds no ${MANIFEST}`);
    await removeTree(dir, dirname(dir));
  }

  #place(where: string): string {
    if (NAME.test(where)) return join(this.#home, where);
    if (isAbsolute(where) && normalize(where) === where && !where.endsWith("/")) return where;
    throw new BulkheadError("SPEC_INVALID", {
      what: `${JSON.stringify(where)} names no snapshot`,
      why: "a name is 1 to 63 of a-z, 0-9, ., _ and -, a path is absolute and plain",
      next: "give a name, or an absolute path without . and ..",
    });
  }

  /** What was left half made by a process that is gone. */
  sweep(): Promise<void> {
    return sweep(this.#home);
  }
}

function infoOf(path: string, { level, driver, spec, files, createdMs }: Manifest): SnapshotInfo {
  const bytes = Object.values(files).reduce((sum, file) => sum + file.bytes, 0);
  return { path, level, driver, image: spec.image, bytes, createdMs };
}

function invalid(dir: string, why: string): BulkheadError {
  return new BulkheadError("SNAPSHOT_INVALID", { what: `${dir} is no snapshot that can be used`, why });
}

/** Nobody but root has been able to put anything there. @throws BulkheadError SNAPSHOT_NOT_FOUND, SNAPSHOT_INVALID */
async function requirePrivate(dir: string): Promise<void> {
  const found = await statOrNull(dir);
  if (found === null) throw new BulkheadError("SNAPSHOT_NOT_FOUND", { what: `there is no snapshot at ${dir}` });
  if (!isPrivate(found)) throw invalid(dir, "it is no directory of root's alone");
  for (let above = dirname(dir); ; above = dirname(above)) {
    const { uid, mode } = await stat(above);
    const open = (mode & OTHERS_MAY_WRITE) !== 0 && (mode & STICKY) === 0;
    if (uid !== 0 || open) throw invalid(dir, `others than root can change ${above}`);
    if (above === dirname(above)) return;
  }
}

function isPrivate(found: Stats | null): boolean {
  return found !== null && found.isDirectory() && found.uid === 0 && (found.mode & OTHERS) === 0;
}

/** @throws BulkheadError SNAPSHOT_INVALID unless it is a regular file of root's alone, of that length */
export async function requireFile(path: string, bytes: number): Promise<void> {
  const found = await statOrNull(path);
  const why =
    found === null
      ? `${path} is missing`
      : !found.isFile() || found.uid !== 0 || (found.mode & OTHERS) !== 0
        ? `${path} is no regular file of root's alone`
        : found.size === bytes
          ? null
          : `${path} has ${found.size} bytes, and had ${bytes}`;
  if (why !== null) throw invalid(dirname(path), why);
}

async function manifestOf(dir: string): Promise<string> {
  const path = join(dir, MANIFEST);
  const found = await statOrNull(path);
  if (found === null) throw invalid(dir, `it holds no ${MANIFEST}`);
  if (found.size > MAX_MANIFEST_BYTES) throw invalid(dir, `its ${MANIFEST} is larger than ${MAX_MANIFEST_BYTES} bytes`);
  await requireFile(path, found.size);
  await using file = await open(path);
  const { buffer, bytesRead } = await file.read(Buffer.alloc(found.size), 0, found.size, 0);
  return buffer.toString("utf8", 0, bytesRead);
}

async function sweep(above: string): Promise<void> {
  for (const name of await namesIn(above)) {
    if (!name.startsWith(DRAFT_PREFIX)) continue;
    const [pid, start] = name.slice(DRAFT_PREFIX.length).split("-");
    if (processIdentity(Number(pid)) === `${pid}-${start}`) continue;
    // One that somebody else has put there could become another while it is being deleted.
    if (isPrivate(await statOrNull(join(above, name)))) await removeTree(join(above, name), above);
  }
}

async function namesIn(dir: string): Promise<readonly string[]> {
  return readdir(dir).catch(() => []);
}

async function statOrNull(path: string): Promise<Stats | null> {
  try {
    return await lstat(path);
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return null;
    throw error;
  }
}
