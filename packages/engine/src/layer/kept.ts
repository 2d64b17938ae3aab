import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { BulkheadError, formatBytes, SPEC_RULES, type Spec } from "@bulkhead/contract";
import type { DriverCapabilities } from "../drivers/driver.ts";
import { makeExt4, type ScratchSize } from "../drivers/scratch.ts";
import { lockFile } from "../system/file-lock.ts";
import { removeTree } from "../system/remove-tree.ts";
import { keptDirectory, keptFile } from "./paths.ts";

const VERSION = 1;
const MAX_RECORD_BYTES = 64 * 1024;
const UNFINISHED = /^\.(?:new|trash)-/;
const MIB = 1024 * 1024;
/** A journal has 4 MiB at least. */
const LEAST_BYTES = 16 * MIB;
const JOURNAL_MIB = { least: 4, most: 64, share: 1 / 64 };

export type LayerWriter = DriverCapabilities["layerWriter"];

/** What a kept layer goes on with, and nothing else. */
export interface KeptBinding {
  /** Whose kernel writes to it: the host's never reads what a guest's wrote as a disk. */
  readonly writer: LayerWriter;
  /** Digest of the image that it lies over. */
  readonly image: string;
}

export interface KeptLayer extends KeptBinding, ScratchSize {
  readonly name: string;
  /** As it was named when the layer was made. */
  readonly reference: string;
}

export interface ListedLayer extends KeptLayer {
  /** Room that it takes on the host's disk now. */
  readonly usedBytes: number;
}

/**
 * Writable layers that stay after their sandbox, under `<state>/kept/<name>/{layer.ext4,layer.json}`. One appears by one
 * rename when it is whole, and leaves by one.
 */
export class KeptLayers {
  readonly #state: string;
  readonly #dir: string;

  constructor(stateDir: string) {
    this.#state = stateDir;
    this.#dir = keptDirectory(stateDir);
  }

  /** @returns null where none is kept under that name. @throws BulkheadError KEPT_INVALID */
  async find(name: string): Promise<KeptLayer | null> {
    const text = await readFile(join(this.#dir, name, "layer.json"), "utf8").catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return null;
      throw error;
    });
    return text === null ? null : { name, ...parseRecord(name, text) };
  }

  /** @throws BulkheadError KEPT_NOT_FOUND, KEPT_INVALID */
  async get(name: string): Promise<KeptLayer> {
    const found = SPEC_RULES.keepName.test(name) ? await this.find(name) : null;
    if (found !== null) return found;
    throw new BulkheadError("KEPT_NOT_FOUND", { what: `no layer is kept as ${JSON.stringify(name)}` });
  }

  /**
   * A spec with the sizes of the layer that is kept under its name already, if one is.
   * @throws BulkheadError KEPT_MISMATCH, KEPT_INVALID, LIMIT_UNSUPPORTED
   */
  async sized(spec: Spec, wanted: KeptBinding): Promise<Spec> {
    const kept = spec.keep === undefined ? null : await this.find(spec.keep);
    if (kept === null) {
      if (spec.keep !== undefined && spec.diskBytes !== undefined) requireRoom(spec.diskBytes);
      return spec;
    }
    requireBinding(kept, wanted);
    requireSizes(kept, spec);
    return { ...spec, diskBytes: kept.bytes, diskInodes: kept.inodes };
  }

  /** By name. What cannot be read is left out: it can still be removed. */
  async list(): Promise<readonly ListedLayer[]> {
    const names = await readdir(this.#dir).catch(() => []);
    const read = names.filter((name) => SPEC_RULES.keepName.test(name)).map((name) => this.#listed(name));
    return (await Promise.all(read)).filter((one) => one !== null).toSorted((a, b) => (a.name < b.name ? -1 : 1));
  }

  async #listed(name: string): Promise<ListedLayer | null> {
    try {
      const found = await this.find(name);
      if (found === null) return null;
      // stat counts in units of 512 bytes, whatever the file system's blocks.
      return { ...found, usedBytes: (await stat(keptFile(this.#state, name))).blocks * 512 };
    } catch {
      return null;
    }
  }

  /**
   * Makes the layer where there is none yet.
   * @throws BulkheadError KEPT_MISMATCH when another was made meanwhile; LIMIT_UNSUPPORTED, HOST_UNSUPPORTED, RUNTIME_FAILED
   */
  async ensure(wanted: KeptLayer, signal?: AbortSignal): Promise<void> {
    const { name, bytes, inodes } = wanted;
    const found = await this.find(name);
    if (found !== null) return requireSame(found, wanted);
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    await using _lock = await lockFile(join(this.#dir, ".lock"), signal === undefined ? {} : { signal });
    await this.#sweep();
    const meanwhile = await this.find(name);
    if (meanwhile !== null) return requireSame(meanwhile, wanted);
    const part = join(this.#dir, `.new-${randomBytes(8).toString("hex")}`);
    await using unfinished = new AsyncDisposableStack();
    unfinished.defer(() => removeTree(part, this.#dir));
    await mkdir(part, { mode: 0o700 });
    const stop = signal === undefined ? {} : { signal };
    await makeExt4(join(part, "layer.ext4"), { bytes, inodes }, { journalMib: journalMib(bytes), ...stop });
    await removeTree(join(part, "contents"), part);
    const { writer, image, reference } = wanted;
    const record = { version: VERSION, writer, image, reference, bytes, inodes };
    await writeFile(join(part, "layer.json"), `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600 });
    await rename(part, join(this.#dir, name));
  }

  /** @throws BulkheadError KEPT_NOT_FOUND, KEPT_IN_USE */
  async remove(name: string, signal?: AbortSignal): Promise<void> {
    const stop = signal === undefined ? {} : { signal };
    if (!SPEC_RULES.keepName.test(name)) await this.get(name);
    const there = await stat(join(this.#dir, name)).catch(() => null);
    if (there === null) await this.get(name);
    await using _lock = await lockFile(join(this.#dir, ".lock"), stop);
    // Held until it is gone: who opened it meanwhile finds that it has no name any more.
    await using _layer = await this.use(name, signal);
    await rename(join(this.#dir, name), join(this.#dir, `.trash-${randomBytes(8).toString("hex")}`));
    await this.#sweep();
  }

  /** Keeps sandboxes away from a layer. @throws BulkheadError KEPT_IN_USE */
  async use(name: string, signal?: AbortSignal): Promise<AsyncDisposable> {
    const busy = (): BulkheadError => inUse(name);
    return await lockFile(keptFile(this.#state, name), signal === undefined ? { busy } : { busy, signal });
  }

  /** What was killed while it was made or removed. */
  async #sweep(): Promise<void> {
    for (const name of await readdir(this.#dir)) {
      if (UNFINISHED.test(name)) await removeTree(join(this.#dir, name), this.#dir);
    }
  }
}

export function inUse(name: string): BulkheadError {
  return new BulkheadError("KEPT_IN_USE", { what: `the layer kept as ${name} is in use by another sandbox` });
}

/** What the keeper says of a layer that somebody else has. */
export function explainBusy(error: unknown, name: string): unknown {
  const busy = error instanceof BulkheadError && error.details["errno"] === "EBUSY";
  return busy && error.message.includes("layer.ext4") ? inUse(name) : error;
}

function journalMib(bytes: number): number {
  const { least, most, share } = JOURNAL_MIB;
  return Math.min(most, Math.max(least, Math.floor((bytes * share) / MIB)));
}

/** @throws BulkheadError LIMIT_UNSUPPORTED */
export function requireRoom(bytes: number): void {
  if (bytes >= LEAST_BYTES) return;
  throw new BulkheadError("LIMIT_UNSUPPORTED", {
    what: `a layer of ${formatBytes(bytes)} cannot be kept`,
    why: "its journal alone has 4 MiB",
    next: `ask for a disk of ${formatBytes(LEAST_BYTES)} or more`,
    details: { limit: "disk", bytes, least: LEAST_BYTES },
  });
}

function mismatch(name: string, why: string, next: string): BulkheadError {
  return new BulkheadError("KEPT_MISMATCH", { what: `the layer kept as ${name} cannot be used here`, why, next });
}

const WRITERS: Readonly<Record<LayerWriter, string>> = {
  host: "container and gvisor",
  guest: "microvm",
};

/** @throws BulkheadError KEPT_MISMATCH */
export function requireBinding(kept: KeptLayer, wanted: KeptBinding): void {
  const { name } = kept;
  if (kept.writer !== wanted.writer) {
    const why =
      kept.writer === "guest"
        ? "a guest's kernel wrote it as a disk, which the host's kernel does not read"
        : "it lies on the host's own file system, and no guest is given that";
    throw mismatch(name, why, `use it at ${WRITERS[kept.writer]}, or choose another name`);
  }
  if (kept.image !== wanted.image) {
    const why = `it lies over image ${kept.reference} (${kept.image.slice(0, 19)}), and this is ${wanted.image.slice(0, 19)}`;
    throw mismatch(name, why, `use that image, or choose another name`);
  }
}

/** @throws BulkheadError KEPT_MISMATCH */
export function requireSizes(kept: KeptLayer, asked: Pick<Spec, "diskBytes" | "diskInodes">): void {
  for (const [option, has, wanted] of [
    ["disk", kept.bytes, asked.diskBytes],
    ["inodes", kept.inodes, asked.diskInodes],
  ] as const) {
    if (wanted === undefined || wanted === has) continue;
    throw mismatch(kept.name, `it was made with ${option} ${has}, and this asks for ${wanted}`, `leave ${option} out`);
  }
}

function requireSame(found: KeptLayer, wanted: KeptLayer): void {
  requireBinding(found, wanted);
  requireSizes(found, { diskBytes: wanted.bytes, diskInodes: wanted.inodes });
}

function parseRecord(name: string, text: string): Omit<KeptLayer, "name"> {
  try {
    if (text.length > MAX_RECORD_BYTES) throw new RangeError("too long");
    const { version, writer, image, reference, bytes, inodes } = JSON.parse(text) as Record<string, unknown>;
    const sized = Number.isSafeInteger(bytes) && Number.isSafeInteger(inodes);
    const written = writer === "host" || writer === "guest";
    if (version === VERSION && sized && written && typeof image === "string" && typeof reference === "string") {
      return { writer, image, reference, bytes: bytes as number, inodes: inodes as number };
    }
  } catch {
    // Reported below, like a record of another shape.
  }
  throw new BulkheadError("KEPT_INVALID", {
    what: `the record of the layer kept as ${name} cannot be read`,
    next: `run "bulkhead kept remove ${name}"`,
  });
}
