import { closeSync, openSync } from "node:fs";
import { BulkheadError, type ErrorCode } from "@bulkhead/contract";
import { runProgram } from "../system/process.ts";
import { MAKE_ROOM, unpackLimits, type ImageLimits } from "./limits.ts";

/** 64 GiB at 10 MB/s take two hours; what takes longer is stuck. */
const TIMEOUT_MS = 4 * 3600_000;
/** A line of the program's: a path of at most 4096 bytes, quoted, and some words. */
const MAX_OUTPUT_BYTES = 64 * 1024;

/** One call of the program that unpacks layers. */
export interface LayersProgram {
  /** Its path on this host. */
  readonly path: string;
  /** What is unpacked, for messages. */
  readonly image: string;
  readonly limits: ImageLimits;
  readonly signal?: AbortSignal;
}

/** What has been done so far. */
export interface LayerProgress {
  /** Of the compressed layer. */
  readonly read: number;
  readonly entries: number;
  /** Of the unpacked files. */
  readonly bytes: number;
}

interface LayerFailure {
  readonly kind: string;
  readonly path?: string;
  readonly what: string;
  readonly limit?: number;
}

/** The host's own fault, and so no reason to think badly of the image. */
const HOST_KINDS: Readonly<Record<string, ErrorCode>> = { io: "HOST_RESOURCE", usage: "INTERNAL" };

/** In an order that is always the same, and with all that `walkTree` and the digest of a tree look at. */
const TAR = [
  ...["tar", "--create", "--format=posix", "--sort=name", "--numeric-owner", "--one-file-system"],
  ...["--xattrs", "--xattrs-include=security.capability", "'--xattrs-include=user.*'"],
].join(" ");
/** Arguments: the tree, then the program that takes the stream. Each ends with the shell, and that with this process. */
const PIPE = `set -o pipefail; die="setpriv --pdeathsig KILL"; $die ${TAR} --directory "$1" . | $die "\${@:2}"`;

/**
 * Unpacks one layer, a tar stream as it is or compressed, into the new directory `into`.
 *
 * @param blob the layer's file
 * @param expected digests it must have: of the file itself, and of what it is unpacked
 * @throws BulkheadError IMAGE_REFUSED with `details.kind`; HOST_RESOURCE, HOST_UNSUPPORTED, TIMEOUT, ABORTED
 */
export async function unpackLayer(
  program: LayersProgram,
  blob: string,
  into: string,
  expected: { readonly digest: string; readonly diffId: string },
  onProgress: (progress: LayerProgress) => void,
): Promise<void> {
  const stdin = openSync(blob, "r");
  try {
    const digests = ["--digest", expected.digest, "--diff-id", expected.diffId];
    await runLayers(program, [program.path, ...unpackArgs(program, into), ...digests], { stdin, onProgress });
  } finally {
    closeSync(stdin);
  }
}

/**
 * Makes a layer of a directory, as if it had come as one.
 *
 * @returns the digest of its tar stream
 * @throws BulkheadError as `unpackLayer`
 */
export async function importTree(
  program: LayersProgram,
  tree: string,
  into: string,
  onProgress: (progress: LayerProgress) => void,
): Promise<string> {
  const argv = ["bash", "-c", PIPE, "bash", tree, program.path, ...unpackArgs(program, into)];
  return String((await runLayers(program, argv, { onProgress }))["diffId"]);
}

function unpackArgs(program: LayersProgram, into: string): readonly string[] {
  return ["unpack", "--into", into, "--limits", unpackLimits(program.limits)];
}

/**
 * Puts layers on top of each other as `<into>/rootfs`, lowest first, files linked and not copied.
 *
 * @throws BulkheadError as `unpackLayer`
 */
export async function composeLayers(
  program: LayersProgram,
  into: string,
  layers: readonly string[],
): Promise<{ readonly entries: number; readonly bytes: number }> {
  const done = await runLayers(program, [program.path, "compose", "--into", into, ...layers], {});
  return { entries: Number(done["entries"]), bytes: Number(done["bytes"]) };
}

async function runLayers(
  program: LayersProgram,
  argv: readonly string[],
  io: { readonly stdin?: number; readonly onProgress?: (progress: LayerProgress) => void },
): Promise<Record<string, unknown>> {
  const onLine = (text: string, stream: "stdout" | "stderr"): void => {
    const line = stream === "stdout" ? parseLine(text) : undefined;
    if (typeof line?.["read"] === "number") io.onProgress?.(line as unknown as LayerProgress);
  };
  const result = await runProgram(["setpriv", "--pdeathsig", "KILL", ...argv], {
    timeoutMs: TIMEOUT_MS,
    maxOutputBytes: MAX_OUTPUT_BYTES,
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" },
    onLine,
    ...(io.stdin !== undefined && { stdin: io.stdin }),
    ...(program.signal && { signal: program.signal }),
  });
  const { image } = program;
  const last = parseLine(result.stdout.trim().split("\n").at(-1) ?? "") ?? {};
  if (typeof last["error"] === "object") throw layerError(image, last["error"] as LayerFailure);
  if (result.exitCode === 0 && typeof last["done"] === "object") return last["done"] as Record<string, unknown>;
  throw new BulkheadError("HOST_RESOURCE", {
    what: `${image} could not be unpacked: it ended with ${result.signal ?? `exit code ${result.exitCode}`}`,
    why: result.stderr.trim().split("\n").at(-1) ?? "",
    next: "check that the disk has room and that ./x setup has built bulkhead-layers",
  });
}

function parseLine(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

/** What the program found, in words; paths come from the image and are shown without what a terminal would act on. */
function layerError(name: string, failure: LayerFailure): BulkheadError {
  const { kind, path, what, limit } = failure;
  const place = path === undefined || path === "" ? "" : ` at ${JSON.stringify(path).replace(/[^\x20-\x7e]/g, "?")}`;
  const details = { kind, ...(path !== undefined && { path }), ...(limit !== undefined && { limit }) };
  const host = HOST_KINDS[kind];
  if (host !== undefined) {
    const next = /no space left/i.test(what) ? { next: MAKE_ROOM } : {};
    return new BulkheadError(host, { what: `${name} could not be unpacked${place}: ${what}`, ...next, details });
  }
  return new BulkheadError("IMAGE_REFUSED", {
    what: `${name}: ${what}${place}`,
    ...(limit !== undefined && { why: `the limit is ${limit}` }),
    details,
  });
}
