import { access, constants, realpath } from "node:fs/promises";
import { join } from "node:path";
import { runChecked } from "../system/process.ts";
import type { FileCache, Identified } from "./file-cache.ts";
import type { FoundRuntime } from "./facts.ts";
import { OWN_QEMU, ownQemuCounts } from "./own-qemu.ts";

/** Runtimes the drivers know, with where each is looked for before PATH, relative to the state directory. */
const RUNTIMES: readonly Known[] = [
  { name: "crun", own: null },
  { name: "runc", own: null },
  { name: "runsc", own: "runtimes/runsc/usr/bin/runsc" },
  { name: "qemu-system-x86_64", own: `${OWN_QEMU}/qemu-system-x86_64`, counts: ownQemuCounts },
];

interface Known {
  readonly name: string;
  readonly own: string | null;
  /** Whether our own is to be used beside the program on PATH, whose digest is given. */
  readonly counts?: (state: string, packaged: string | null) => Promise<boolean>;
}

/** A loaded machine takes a second to start a binary of 30 MB for the first time. */
const VERSION_TIMEOUT_MS = 10_000;
const VERSION_MAX_BYTES = 64 * 1024;

/** `crun version 1.8.1`, `runc version 1.1.5+ds1`, `runsc version 0.0~20240729.0`, `runsc version release-20240729.0`,
 * `QEMU emulator version 7.2.22`. */
const VERSION = /version\s+(?:release-)?(\S+)/;

async function findExecutable(candidates: readonly string[]): Promise<string | null> {
  for (const candidate of candidates) {
    try {
      await access(candidate, constants.X_OK);
      return await realpath(candidate);
    } catch {
      continue;
    }
  }
  return null;
}

async function version(path: string, signal?: AbortSignal): Promise<string> {
  const { stdout } = await runChecked([path, "--version"], {
    timeoutMs: VERSION_TIMEOUT_MS,
    maxOutputBytes: VERSION_MAX_BYTES,
    failure: "RUNTIME_FAILED",
    env: { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" },
    ...(signal === undefined ? {} : { signal }),
  });
  return VERSION.exec(stdout)?.[1] ?? "unknown";
}

async function choose(
  { name, own, counts }: Known,
  state: string,
  searchPath: readonly string[],
  identify: (path: string) => Promise<Identified>,
): Promise<string | null> {
  const packaged = await findExecutable(searchPath.map((dir) => join(dir, name)));
  const ours = own === null ? null : await findExecutable([join(state, own)]);
  if (ours === null || counts === undefined) return ours ?? packaged;
  if (packaged === null) return (await counts(state, null)) ? ours : null;
  // Of one that does not run nobody knows what it is, so ours is not known to be as new: it is the one to be told of.
  const same = await identify(packaged).then(
    ({ digest }) => counts(state, digest),
    () => false,
  );
  return same ? ours : packaged;
}

/** Finds every runtime; asks a binary for its version once for each content. */
export async function findRuntimes(
  state: string,
  searchPath: readonly string[],
  cache: FileCache,
  signal?: AbortSignal,
): Promise<Readonly<Record<string, FoundRuntime>>> {
  const found: Record<string, FoundRuntime> = {};
  const identify = (path: string): Promise<Identified> => cache.identify(path, () => version(path, signal));
  for (const known of RUNTIMES) {
    const path = await choose(known, state, searchPath, identify);
    if (path === null) {
      found[known.name] = { kind: "absent" };
      continue;
    }
    try {
      const { digest, note } = await identify(path);
      found[known.name] = { kind: "found", runtime: { name: known.name, path, version: note, digest } };
    } catch (error) {
      signal?.throwIfAborted();
      found[known.name] = { kind: "broken", path, why: error instanceof Error ? error.message : String(error) };
    }
  }
  return found;
}
