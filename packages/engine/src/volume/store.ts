import { randomBytes } from "node:crypto";
import { lstat, mkdir, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import {
  BulkheadError,
  formatBytes,
  parseVolumeName,
  type MountPlan,
  SPEC_RULES,
  type VolumeUse,
} from "@bulkhead/contract";
import { lockFile } from "../system/file-lock.ts";
import { runProgram } from "../system/process.ts";
import { removeTree } from "../system/remove-tree.ts";
import { makeFileSystem } from "./file-system.ts";
import { usersOf, type VolumeUsers } from "./users.ts";

/** Root only: what sandboxes wrote may hold anything. */
const DIRECTORY_MODE = 0o700;
/** As the keeper calls it, too. */
const DATA = "data.ext4";
const RECORD = "volume.json";
const MAX_RECORD_BYTES = 4096;
const UNFINISHED = /^\.(?:new|trash)-/;
/** A journal and the file system's own tables need a quarter of that. */
const MIN_BYTES = 16 * 1024 * 1024;
/** What ext4 takes with blocks of 4 KiB. */
const MAX_BYTES = 2 ** 44;
/** mke2fs's own choice. */
const BYTES_PER_INODE = 16 * 1024;
const MIN_INODES = 64;
/** The user of the base image: a volume without an owner named is his. */
const DEFAULT_OWNER = 1000;
const MAX_ID = 65_535;
const BLOCK_BYTES = 512;
const REMOVE_TIMEOUT_MS = 60_000;
/** flock(1)'s own way to say that somebody has the lock. */
const CONFLICT = 9;

export interface VolumeOptions {
  /** Hard end, the file system's own tables included. */
  readonly sizeBytes: number;
  /** How many files it can hold. Default: one for 16 KiB. */
  readonly inodes?: number;
  /** Whose the top directory is, as ids inside. Default 1000, the base image's user, and his group. */
  readonly owner?: { readonly uid: number; readonly gid: number };
  readonly signal?: AbortSignal;
}

export interface VolumeRecord {
  readonly version: 1;
  readonly sizeBytes: number;
  readonly inodes: number;
  readonly uid: number;
  readonly gid: number;
  readonly createdMs: number;
}

export interface ListedVolume {
  readonly name: string;
  /** Null when it cannot be read: the volume is damaged and only good for removal. */
  readonly record: VolumeRecord | null;
  /** What its file takes on the host's disk: holes cost nothing. */
  readonly usedBytes: number;
  readonly users: VolumeUsers;
}

/**
 * Named, lasting file systems with a hard end, under `<state>/volumes/<name>`. One appears by one rename when it is whole and
 * leaves by one rename; `.new-*` and `.trash-*` are what a process that was killed left behind, and go when the next is made.
 * Who uses one is known by locks on its file, which the keeper takes: the kernel drops them with their holder.
 */
export class VolumeStore {
  readonly #dir: string;

  constructor(stateDir: string) {
    this.#dir = resolve(stateDir, "volumes");
  }

  /** @throws BulkheadError SPEC_INVALID, VOLUME_EXISTS, HOST_UNSUPPORTED, HOST_RESOURCE, ABORTED */
  async create(name: string, options: VolumeOptions): Promise<ListedVolume> {
    const target = this.#place(name);
    const record = recordOf(options);
    await mkdir(this.#dir, { recursive: true, mode: DIRECTORY_MODE });
    const signal = options.signal === undefined ? {} : { signal: options.signal };
    await using _lock = await lockFile(join(this.#dir, ".lock"), signal);
    for (const left of await readdir(this.#dir)) {
      if (UNFINISHED.test(left)) await removeTree(join(this.#dir, left), this.#dir);
    }
    if (await exists(target)) throw new BulkheadError("VOLUME_EXISTS", { what: `volume "${name}" is there already` });
    const draft = join(this.#dir, `.new-${randomBytes(8).toString("hex")}`);
    await using cleanup = new AsyncDisposableStack();
    cleanup.defer(() => removeTree(draft, this.#dir));
    await mkdir(draft, { mode: DIRECTORY_MODE });
    await makeFileSystem(join(draft, DATA), record, signal);
    await writeFile(join(draft, RECORD), `${JSON.stringify(record)}\n`, { mode: 0o600 });
    await rename(draft, target);
    return await this.#listed(name);
  }

  /** All of them, by name. */
  async list(): Promise<readonly ListedVolume[]> {
    const names = await readdir(this.#dir).catch(() => []);
    const volumes = names.filter((name) => SPEC_RULES.volumeName.test(name));
    return await Promise.all(volumes.toSorted().map((name) => this.#listed(name)));
  }

  /** @throws BulkheadError VOLUME_NOT_FOUND, VOLUME_IN_USE */
  async remove(name: string): Promise<void> {
    const target = this.#place(name);
    await this.#require(name);
    const trash = join(this.#dir, `.trash-${randomBytes(8).toString("hex")}`);
    // The lock is held until the name is gone; who comes later finds none.
    const locked = ["flock", "--exclusive", "--nonblock", "--conflict-exit-code", `${CONFLICT}`, join(target, DATA)];
    const { exitCode, stderr } = await runProgram([...locked, "mv", "--no-target-directory", "--", target, trash], {
      timeoutMs: REMOVE_TIMEOUT_MS,
    });
    if (exitCode === CONFLICT) throw new BulkheadError("VOLUME_IN_USE", { what: `volume "${name}" is in use` });
    if (exitCode !== 0) {
      throw new BulkheadError("HOST_RESOURCE", { what: `volume "${name}" cannot be removed`, why: stderr.trim() });
    }
    await removeTree(trash, this.#dir);
  }

  /**
   * What a plan mounts for them; nothing is attached yet.
   * @throws BulkheadError VOLUME_NOT_FOUND, VOLUME_INVALID
   */
  async attached(uses: readonly VolumeUse[]): Promise<readonly MountPlan[]> {
    return await Promise.all(
      uses.map(async ({ name, target, readOnly, shared }): Promise<MountPlan> => {
        const { uid, gid } = await this.record(name);
        return { source: this.#place(name), target, readOnly, owner: { uid, gid }, volume: { name, shared } };
      }),
    );
  }

  /** @throws BulkheadError VOLUME_NOT_FOUND, VOLUME_INVALID */
  async record(name: string): Promise<VolumeRecord> {
    await this.#require(name);
    const record = await readRecord(join(this.#place(name), RECORD));
    if (record !== null) return record;
    throw new BulkheadError("VOLUME_INVALID", {
      what: `the record of volume "${name}" cannot be read`,
      next: `remove it with bulkhead volume remove ${name}; its files are in ${join(this.#place(name), DATA)}`,
    });
  }

  #place(name: string): string {
    return join(this.#dir, parseVolumeName(name));
  }

  async #require(name: string): Promise<void> {
    if (await exists(this.#place(name))) return;
    throw new BulkheadError("VOLUME_NOT_FOUND", { what: `there is no volume "${name}"` });
  }

  async #listed(name: string): Promise<ListedVolume> {
    const [data, record] = await Promise.all([
      lstat(join(this.#place(name), DATA)).catch(() => null),
      readRecord(join(this.#place(name), RECORD)),
    ]);
    if (data === null) return { name, record: null, usedBytes: 0, users: { readers: 0, writers: 0 } };
    return { name, record, usedBytes: data.blocks * BLOCK_BYTES, users: await usersOf(data) };
  }
}

/** @throws BulkheadError SPEC_INVALID */
function recordOf({ sizeBytes, inodes, owner }: VolumeOptions): VolumeRecord {
  const whole = (value: number, what: string, least: number, most: number, shown = `${least} to ${most}`): number => {
    if (Number.isSafeInteger(value) && value >= least && value <= most) return value;
    throw new BulkheadError("SPEC_INVALID", {
      what: `${what} of ${value} cannot be had`,
      why: `a volume's ${what} is ${shown}`,
      next: "give a number in that range",
    });
  };
  const range = `${formatBytes(MIN_BYTES)} to ${formatBytes(MAX_BYTES)}`;
  const bytes = whole(sizeBytes, "size", MIN_BYTES, MAX_BYTES, range);
  const most = Math.floor(bytes / BLOCK_BYTES / 8);
  return {
    version: 1,
    sizeBytes: bytes,
    inodes: whole(inodes ?? Math.floor(bytes / BYTES_PER_INODE), "number of files", MIN_INODES, most),
    uid: whole(owner?.uid ?? DEFAULT_OWNER, "owner", 0, MAX_ID),
    gid: whole(owner?.gid ?? DEFAULT_OWNER, "owner's group", 0, MAX_ID),
    createdMs: Date.now(),
  };
}

async function readRecord(path: string): Promise<VolumeRecord | null> {
  try {
    if ((await lstat(path)).size > MAX_RECORD_BYTES) return null;
    const record = JSON.parse(await readFile(path, "utf8")) as Partial<VolumeRecord>;
    const numbers = [record.sizeBytes, record.inodes, record.uid, record.gid, record.createdMs];
    return record.version === 1 && numbers.every(Number.isSafeInteger) ? (record as VolumeRecord) : null;
  } catch {
    return null;
  }
}

async function exists(path: string): Promise<boolean> {
  return (await lstat(path).catch(() => null))?.isDirectory() === true;
}
