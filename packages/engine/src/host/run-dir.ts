import { statSync } from "node:fs";
import { dirname } from "node:path";
import { BulkheadError } from "@bulkhead/contract";

const PASSABLE_BY_OTHERS = 0o001;

/**
 * The runtimes walk to a sandbox's directory as the sandbox's own ids, which own none of the directories above it.
 *
 * @throws BulkheadError HOST_UNSUPPORTED naming the first directory from the top that they could not pass through.
 */
export function requirePassable(runDir: string): void {
  const above: string[] = [];
  for (let at = dirname(runDir); ; at = dirname(at)) {
    above.unshift(at);
    if (at === dirname(at)) break;
  }
  for (const directory of above) {
    const mode = statSync(directory, { throwIfNoEntry: false })?.mode;
    // Nothing below exists either; the keeper makes it passable.
    if (mode === undefined) return;
    if ((mode & PASSABLE_BY_OTHERS) !== 0) continue;
    throw new BulkheadError("HOST_UNSUPPORTED", {
      what: `sandboxes cannot run below ${directory}`,
      why: `its mode is ${(mode & 0o7777).toString(8)}, and a sandbox's own ids must be able to pass through it`,
      next: `run "chmod o+x ${directory}", or set BULKHEAD_RUN to a directory elsewhere`,
      details: { directory, runDir },
    });
  }
}
