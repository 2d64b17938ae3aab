const KIB = 1024;
const MIB = KIB * KIB;
const GIB = KIB * MIB;

/** What to do when the disk is full. */
export const MAKE_ROOM = "make room with: bulkhead image gc --keep 10g";

/** What an image may cost at most. Bytes where nothing else is said. */
export interface ImageLimits {
  /** Manifests, indexes and configurations, each. */
  readonly documentBytes: number;
  /** Images for different machines in one index. */
  readonly indexEntries: number;
  readonly layers: number;
  /** All layers as they travel. */
  readonly downloadBytes: number;
  /** One layer, and all layers of an image together, unpacked. */
  readonly unpackedBytes: number;
  /** Files, directories and links, in one layer and in the whole image. */
  readonly entries: number;
  /** How many bytes one byte of a layer may become. */
  readonly ratio: number;
  readonly pathBytes: number;
  /** Directories within directories. */
  readonly depth: number;
  /** Extended attributes of one file. */
  readonly xattrBytes: number;
  /** Milliseconds in which not one byte arrives. */
  readonly stallMs: number;
}

export const DEFAULT_LIMITS: ImageLimits = {
  // What registries themselves accept for a manifest.
  documentBytes: 4 * MIB,
  indexEntries: 1024,
  // Builders stop at 127; tools that make one layer of each package are the only ones to make more.
  layers: 512,
  // The largest images that are in use, those with a whole machine-learning stack, travel as 10 to 15 GiB.
  downloadBytes: 32 * GIB,
  unpackedBytes: 64 * GIB,
  entries: 4_000_000,
  // DEFLATE itself cannot do more than 1,032; layers of text do 20.
  ratio: 1100,
  // PATH_MAX: what is longer nobody could open by its name.
  pathBytes: 4096,
  depth: 1024,
  // What the kernel lets a file carry.
  xattrBytes: 64 * KIB,
  stallMs: 60_000,
};

/** As the program that unpacks layers takes them. */
export function unpackLimits(limits: ImageLimits): string {
  return JSON.stringify({
    maxBytes: limits.unpackedBytes,
    maxEntries: limits.entries,
    maxRatio: limits.ratio,
    maxPathBytes: limits.pathBytes,
    maxXattrBytes: limits.xattrBytes,
    maxDepth: limits.depth,
  });
}
