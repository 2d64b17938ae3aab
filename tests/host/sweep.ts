import { readdir, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";

/** What nothing has started from for this long is made again when it is wanted: each takes a tenth of a gigabyte. */
const KEEP_MS = 6 * 3600_000;
/** Names of what is being made begin with a dot. */
const SCRATCH = /^\./;
/** What is shared between runs and never removed. */
const LOCK = "lock";

/**
 * Removes what is old or was left half-finished. Only called under the lock: whoever made a half-finished thing is dead.
 * What a running test host has open lives on without a name.
 */
export async function sweepHome(home: string): Promise<void> {
  for (const name of await readdir(home)) {
    if (name === LOCK) continue;
    const path = join(home, name);
    const found = await stat(path).catch(() => null);
    const old = found !== null && Date.now() - found.mtimeMs > KEEP_MS;
    if (old || SCRATCH.test(name)) await rm(path, { recursive: true, force: true });
  }
}

/** Says that something is in use, so that it is not swept. */
export async function touch(path: string): Promise<void> {
  const now = new Date();
  await utimes(path, now, now);
}
