import { BulkheadError } from "@bulkhead/contract";
import type { Directories } from "../host/index.ts";
import type { KeptLayer } from "./kept.ts";

/** A layer of many gigabytes at the pace of a slow disk. */
export const PACK_TIMEOUT_MS = 3600_000;
const KIND = /^[a-z-]{1,32}$/;
const SHOWN_CHARACTERS = 300;

/** A kept layer that becomes a layer's archive. */
export interface Packing {
  readonly kept: KeptLayer;
  /** The new file. */
  readonly archive: string;
  readonly directories: Directories;
  /** What it may be unpacked. */
  readonly mostBytes: number;
  /** The program that packs. */
  readonly program: string;
  readonly signal?: AbortSignal;
  readonly onProgress: (text: string) => void;
}

/** Without what a terminal acts on. */
function shown(text: unknown): string {
  return String(text)
    .replace(/[^\x20-\x7e]/g, "?")
    .slice(0, SHOWN_CHARACTERS);
}

/**
 * The packer's last line says what stopped it, and where; who has read a hostile disk may say anything.
 * @returns null where it is no such line
 */
export function packFailure(said: string, name: string): BulkheadError | null {
  try {
    const last = JSON.parse(said.trim().split("\n").at(-1) ?? "") as {
      error: { kind: unknown; path?: unknown; what: unknown };
    };
    const { kind, path, what } = last.error;
    if (typeof kind !== "string" || !KIND.test(kind)) return null;
    const place = path === undefined ? "" : ` at ${shown(JSON.stringify(path))}`;
    const details = { kind, ...(path !== undefined && { path: shown(path) }) };
    return new BulkheadError("IMAGE_REFUSED", { what: `the layer kept as ${name}: ${shown(what)}${place}`, details });
  } catch {
    return null;
  }
}
