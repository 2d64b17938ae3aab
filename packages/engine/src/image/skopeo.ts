import { BulkheadError } from "@bulkhead/contract";
import { runProgram, type ProgramResult } from "../system/process.ts";
import { goArchitecture } from "./manifest.ts";
import { isLoopback, type ImageSource } from "./reference.ts";
import { pullError, speaksPlainHttp } from "./skopeo-errors.ts";

/** Beyond this a pull is stuck whatever it says: 32 GiB at 1 MB/s take nine hours. */
const COPY_TIMEOUT_MS = 24 * 3600_000;

export interface SkopeoOptions {
  /** All of its environment: where it finds credentials, authorities and proxies. */
  readonly environment: Readonly<Record<string, string>>;
  /** A directory for its temporary files, in which it also starts. */
  readonly cwd: string;
  /** Registries, by host and port, whose certificates are not checked and that may speak plain HTTP. */
  readonly insecureRegistries: readonly string[];
  /** A registry that has not sent some kilobytes by then does not answer. */
  readonly stallMs: number;
  readonly signal?: AbortSignal;
}

export interface CopyOptions extends SkopeoOptions {
  /** Where blobs are kept and found by their digests, below `sha256`. */
  readonly blobsDir: string;
  /** No file that it writes becomes larger. */
  readonly maxFileBytes: number;
}

/** How skopeo calls a source. */
export function skopeoName(source: ImageSource): string {
  if (source.kind === "registry") return `docker://${source.name}`;
  return `${source.kind}:${source.path}${source.tag === null ? "" : `:${source.tag}`}`;
}

/**
 * The manifest, or index of manifests, as it is at the source, byte for byte.
 *
 * @param digest of a part of an index; null for what the reference itself names
 * @throws BulkheadError IMAGE_NOT_FOUND, IMAGE_DENIED, IMAGE_REFUSED, IMAGE_PULL_FAILED, TIMEOUT, ABORTED, HOST_UNSUPPORTED
 */
export async function readManifest(
  source: ImageSource,
  digest: string | null,
  maxBytes: number,
  options: SkopeoOptions,
): Promise<Buffer> {
  const chunks: Buffer[] = [];
  const tooLong = new AbortController();
  const signal = AbortSignal.any([tooLong.signal, ...(options.signal === undefined ? [] : [options.signal])]);
  const name =
    source.kind === "registry" && digest !== null
      ? `docker://${source.registry}/${source.repository}@${digest}`
      : skopeoName(source);
  let bytes = 0;
  const onStdout = (chunk: Buffer): void => {
    bytes += chunk.length;
    if (bytes > maxBytes) tooLong.abort();
    else chunks.push(chunk);
  };
  try {
    await skopeo(source, (tls) => ["inspect", "--raw", ...tls("--"), name], {
      ...options,
      signal,
      timeoutMs: options.stallMs,
      maxFileBytes: maxBytes,
      onStart: () => {
        chunks.length = 0;
        bytes = 0;
      },
      onStdout,
    });
  } catch (error) {
    if (!tooLong.signal.aborted) throw isTimeout(error) ? stalled(source, options.stallMs, error) : error;
    throw new BulkheadError("IMAGE_REFUSED", {
      what: `${source.name}: its manifest has more than ${maxBytes} bytes`,
      details: { kind: "too-large", limit: maxBytes },
    });
  }
  return Buffer.concat(chunks);
}

/**
 * Brings an image into the layout `oci` of the working directory, its blobs into `blobsDir`; those that are there are not
 * fetched. The host's signature policy is asked, and every blob's digest compared, by skopeo.
 *
 * @throws BulkheadError as `readManifest`
 */
export async function copyImage(source: ImageSource, options: CopyOptions): Promise<void> {
  const fixed = ["--quiet", "--remove-signatures", "--dest-oci-accept-uncompressed-layers"];
  const blobs = ["--dest-shared-blob-dir", options.blobsDir];
  await skopeo(source, (tls) => ["copy", ...fixed, ...blobs, ...tls("--src-"), skopeoName(source), "oci:oci:image"], {
    ...options,
    timeoutMs: COPY_TIMEOUT_MS,
  });
}

function isTimeout(error: unknown): boolean {
  return error instanceof BulkheadError && error.code === "TIMEOUT";
}

/** A source from which nothing has come for so long that nothing will. */
export function stalled(source: ImageSource, stallMs: number, cause?: unknown): BulkheadError {
  return new BulkheadError("TIMEOUT", {
    what: `${source.kind === "registry" ? source.registry : source.path} has sent nothing for ${stallMs / 1000} s`,
    next: "pull it again: what has arrived whole is not fetched twice",
    details: { kind: "stall", source: source.name },
    cause,
  });
}

interface Run extends SkopeoOptions {
  readonly timeoutMs: number;
  readonly maxFileBytes: number;
  readonly onStart?: () => void;
  readonly onStdout?: (chunk: Buffer) => void;
}

/**
 * It is root without root's powers but for reading what is its caller's: it reads what a registry sends and unpacks
 * archives, and needs neither devices nor owners for that. It ends with this process.
 */
function confined(maxFileBytes: number, args: readonly string[]): readonly string[] {
  return [
    ...["prlimit", `--fsize=${maxFileBytes}`, "setpriv", "--pdeathsig", "KILL", "--no-new-privs"],
    ...["--bounding-set", "-all,+dac_read_search", "--inh-caps", "-all", "--"],
    ...["skopeo", "--tmpdir", ".", "--override-os", "linux", "--override-arch", goArchitecture(), ...args],
  ];
}

/** Over TLS with a certificate that is checked; to this machine itself also by plain HTTP, when that is what is spoken. */
async function skopeo(
  source: ImageSource,
  args: (tls: (prefix: string) => readonly string[]) => readonly string[],
  run: Run,
): Promise<void> {
  const registry = source.kind === "registry" ? source.registry : null;
  const insecure = registry !== null && run.insecureRegistries.includes(registry);
  const attempt = async (verify: boolean): Promise<ProgramResult> => {
    run.onStart?.();
    const tls = (prefix: string): readonly string[] =>
      // Only when it is not to be: otherwise what the host's registries.conf says of the registry holds.
      verify ? [] : [`${prefix}tls-verify=false`];
    return await runProgram(confined(run.maxFileBytes, args(tls)), {
      timeoutMs: run.timeoutMs,
      cwd: run.cwd,
      env: { ...run.environment, TMPDIR: run.cwd },
      ...(run.onStdout && { onStdout: run.onStdout }),
      ...(run.signal && { signal: run.signal }),
    });
  };
  let result = await attempt(!insecure);
  const plain = registry !== null && !insecure && isLoopback(registry) && speaksPlainHttp(result.stderr);
  if (plain) result = await attempt(false);
  if (result.exitCode !== 0) throw pullError(source, result);
}
