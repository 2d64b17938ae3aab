import { BulkheadError, parseSandboxName } from "@bulkhead/contract";
import { existsSync } from "node:fs";
import { open, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { lockFile } from "../system/file-lock.ts";
import { ControlDirectory } from "./place.ts";

const LOCK = "names.lock";
const PRIVATE = 0o600;

/** Whether a name is that of a sandbox of an engine that lives; one that is stopped lives too. */
async function isTaken(name: string, run: string): Promise<boolean> {
  await using stack = new AsyncDisposableStack();
  const all = (await ControlDirectory.all(run)).map((one) => stack.use(one));
  for (const directory of all.filter((one) => existsSync(one.nameFile(name)))) {
    const socket = await directory.connect();
    socket?.destroy();
    if (socket !== null) return true;
  }
  return false;
}

/**
 * Claims a name for a sandbox of the engine whose control directory it is, and which listens already: names are unique
 * among all engines of a run directory.
 * @returns what gives it back
 * @throws BulkheadError SANDBOX_NAME_TAKEN, HOST_RESOURCE, ABORTED
 */
export async function claimName(
  name: string,
  run: string,
  own: ControlDirectory,
  signal?: AbortSignal,
): Promise<AsyncDisposable> {
  parseSandboxName(name);
  const lock = join(run, LOCK);
  // Root's alone: whoever may open a file may hold its lock for ever.
  await (await open(lock, "a", PRIVATE)).close();
  await using _ = await lockFile(lock, signal === undefined ? {} : { signal });
  if (await isTaken(name, run)) {
    throw new BulkheadError("SANDBOX_NAME_TAKEN", { what: `a running sandbox is called ${JSON.stringify(name)}` });
  }
  await writeFile(own.nameFile(name), "", { mode: PRIVATE, flag: "wx" });
  // By the directory as it is then: one that was closed is the keeper's to remove.
  return { [Symbol.asyncDispose]: () => rm(own.nameFile(name), { force: true }).catch(() => undefined) };
}
