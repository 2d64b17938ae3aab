import { createHash } from "node:crypto";
import { BulkheadError, canonicalJson, LEVELS, type Level, parseSpec, type Spec } from "@bulkhead/contract";

export const MANIFEST = "snapshot.json";
/** A spec with as many variables and mounts as it may have is smaller. */
export const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;
const VERSION = 1;
const DIGEST = /^sha256:[0-9a-f]{64}$/;

export interface SavedFile {
  readonly bytes: number;
  /** The keeper's, see `keeper/src/digest.rs`. */
  readonly digest: string;
}

/** What lies beside a snapshot's files and says what they are. */
export interface Manifest {
  readonly version: typeof VERSION;
  readonly createdMs: number;
  readonly level: Level;
  readonly driver: string;
  /** As it was carried out: every limit is definite, the image is named by its digest. */
  readonly spec: Spec;
  /** All that the saved state can only be used with. */
  readonly binding: Readonly<Record<string, string>>;
  readonly files: Readonly<Record<string, SavedFile>>;
}

const digestOf = (manifest: unknown): string =>
  `sha256:${createHash("sha256").update(canonicalJson(manifest)).digest("hex")}`;

export function manifestText(manifest: Omit<Manifest, "version">): string {
  const whole = { ...manifest, version: VERSION };
  return `${JSON.stringify({ ...whole, digest: digestOf(whole) }, null, 2)}\n`;
}

/** @throws BulkheadError SNAPSHOT_INVALID naming `path` */
export function parseManifest(text: string, path: string): Manifest {
  const refuse = (why: string, cause?: unknown): never => {
    throw new BulkheadError("SNAPSHOT_INVALID", { what: `snapshot ${path} is damaged`, why, cause });
  };
  let value: Record<string, unknown>;
  try {
    value = JSON.parse(text) as Record<string, unknown>;
    const { digest, ...manifest } = value;
    if (digest !== digestOf(manifest)) return refuse(`${MANIFEST} is not as it was written`);
  } catch (cause) {
    if (cause instanceof BulkheadError) throw cause;
    return refuse(`${MANIFEST} cannot be read`, cause);
  }
  const { version, createdMs, level, driver, binding, files } = value;
  if (version !== VERSION) return refuse(`it is of version ${JSON.stringify(version)}, and this reads ${VERSION}`);
  const known = LEVELS.find((one) => one === level);
  if (known === undefined || typeof driver !== "string" || typeof createdMs !== "number")
    return refuse(`${MANIFEST} lacks its level, driver or time`);
  if (!isRecord(binding, (item) => typeof item === "string") || !isRecord(files, isSavedFile))
    return refuse(`${MANIFEST} lacks its binding or its files`);
  const spec = parseSpec(value["spec"]);
  return { version, createdMs, level: known, driver, spec, binding, files } as Manifest;
}

function isRecord(value: unknown, of: (item: unknown) => boolean): boolean {
  return typeof value === "object" && value !== null && Object.values(value).every(of);
}

function isSavedFile(value: unknown): boolean {
  const file = value as Partial<SavedFile> | null;
  return Number.isSafeInteger(file?.bytes) && typeof file?.digest === "string" && DIGEST.test(file.digest);
}
