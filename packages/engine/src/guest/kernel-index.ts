import { open, readFile, rename } from "node:fs/promises";
import { dirname, join, relative, resolve } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { exists } from "./workshop.ts";

/** `own`: built from our configuration. `stock`: Debian's cloud kernel, which needs modules before it can mount anything. */
export type KernelKind = "own" | "stock";

/** A guest kernel that is there. All paths are absolute. */
export interface KernelRecord {
  readonly kind: KernelKind;
  /** An ELF file that starts by PVH. */
  readonly vmlinux: string;
  /** Directory with the modules for the initial root and their order in `load`; null where everything is built in. */
  readonly modules: string | null;
  /** What `uname -r` prints in the guest. */
  readonly release: string;
  /** Names the kernel: equal hashes are equal kernels. Hex. */
  readonly hash: string;
}

/** The own kernel starts in half the time, so it is the one to use when both are there. */
const PREFERENCE: readonly KernelKind[] = ["own", "stock"];
/** `Linux version 6.1.0-56-cloud-amd64 (...`, which every kernel carries as text. */
const BANNER = Buffer.from("Linux version ");
const RELEASE = /^[\w.+~-]{1,64}$/;
const RELEASE_MAX_BYTES = 64;

/** At most one kernel of each kind is recorded: the latest. Paths in it start at its directory, which may be moved with all in it. */
export function kernelIndexPath(stateDir: string): string {
  return join(stateDir, "guest", "index.json");
}

/**
 * The kernels that are there, the preferred one first; none when nothing was set up.
 *
 * @throws BulkheadError HOST_RESOURCE when the index is damaged or cannot be read
 */
export async function readKernelIndex(stateDir: string): Promise<readonly KernelRecord[]> {
  const path = kernelIndexPath(stateDir);
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return [];
    throw damaged(path, error);
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw damaged(path, error);
  }
  if (!Array.isArray(parsed) || !parsed.every(isRecord)) throw damaged(path, "it holds what is no list of kernels");
  const at = dirname(path);
  const found = parsed.map((record) => ({
    ...record,
    vmlinux: resolve(at, record.vmlinux),
    modules: record.modules === null ? null : resolve(at, record.modules),
  }));
  return found.toSorted((a, b) => PREFERENCE.indexOf(a.kind) - PREFERENCE.indexOf(b.kind));
}

/** The kernel for guests to start; null when there is none that can be used. Starts no process. */
export async function preferredKernel(stateDir: string): Promise<KernelRecord | null> {
  for (const record of await readKernelIndex(stateDir).catch(() => [])) {
    if ((await exists(record.vmlinux)) && (record.modules === null || (await exists(record.modules)))) return record;
  }
  return null;
}

/** Puts a kernel in the place of the one of its kind. To be called under the lock of the guest directory. */
export async function recordKernel(stateDir: string, record: KernelRecord): Promise<void> {
  // A damaged index is replaced: it holds nothing that cannot be made again.
  const known = await readKernelIndex(stateDir).catch(() => []);
  const kept = known.filter(({ kind }) => kind !== record.kind);
  const path = kernelIndexPath(stateDir);
  const from = (to: string): string => relative(dirname(path), to);
  const written = [...kept, record].map(({ kind, vmlinux, modules, release, hash }) => ({
    kind,
    vmlinux: from(vmlinux),
    modules: modules === null ? null : from(modules),
    release,
    hash,
  }));
  const draft = `${path}.new`;
  {
    await using file = await open(draft, "w", 0o644);
    await file.writeFile(`${JSON.stringify(written, null, 2)}\n`);
    await file.sync();
  }
  await rename(draft, path);
  await using dir = await open(dirname(path), "r");
  await dir.sync();
}

/** The record of the kernel at `vmlinux`, null unless it is recorded and there. */
export async function recorded(stateDir: string, vmlinux: string): Promise<KernelRecord | null> {
  const known = await readKernelIndex(stateDir).catch(() => []);
  const record = known.find((one) => one.vmlinux === vmlinux);
  return record !== undefined && (await exists(vmlinux)) ? record : null;
}

/**
 * The release a kernel image calls itself.
 *
 * @throws BulkheadError RUNTIME_FAILED when it carries none
 */
export function kernelRelease(vmlinux: Buffer): string {
  const at = vmlinux.indexOf(BANNER);
  const text = at < 0 ? "" : vmlinux.toString("latin1", at + BANNER.length, at + BANNER.length + RELEASE_MAX_BYTES + 1);
  const release = text.split(" ", 1)[0] ?? "";
  if (RELEASE.test(release)) return release;
  throw new BulkheadError("RUNTIME_FAILED", { what: "the guest kernel does not say which release it is" });
}

function isRecord(value: unknown): value is KernelRecord {
  if (typeof value !== "object" || value === null) return false;
  const { kind, vmlinux, modules, release, hash } = value as Record<string, unknown>;
  const path = (text: unknown): boolean => typeof text === "string" && text !== "" && !text.includes("\0");
  return (
    (kind === "own" || kind === "stock") &&
    path(vmlinux) &&
    (modules === null || path(modules)) &&
    typeof release === "string" &&
    RELEASE.test(release) &&
    typeof hash === "string" &&
    /^[0-9a-f]{8,64}$/.test(hash)
  );
}

function damaged(path: string, cause: unknown): BulkheadError {
  return new BulkheadError("HOST_RESOURCE", {
    what: `the list of guest kernels ${path} cannot be used`,
    why: cause instanceof Error ? cause.message : String(cause),
    next: "make it again with bulkhead setup microvm",
    ...(cause instanceof Error && { cause }),
  });
}
