import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";

const DIRECTORY_MODE = 0o700;
/** Field 22 of /proc/pid/stat counted after the closing bracket of the command's name. */
const START_TIME_FIELD = 19;

/** A process that cannot be mistaken for a later one with the same number: `<pid>-<start time in ticks>`. */
export function processIdentity(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    const start = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[START_TIME_FIELD];
    return start === undefined ? null : `${pid}-${start}`;
  } catch {
    return null;
  }
}

/**
 * Says which processes use an image, in files under `<dir>/<image id>/`. A hold whose process is gone counts for nothing
 * and is cleaned away when met, so a crash needs no repair.
 *
 * Users put down a hold and then look for a removal; removers announce a removal and then look for holds. Whatever the
 * interleaving, at least one of the two sees the other.
 */
export class Holds {
  readonly #dir: string;
  #next = 0;

  constructor(dir: string) {
    this.#dir = dir;
  }

  /**
   * @param holder pid whose life bounds the hold
   * @throws BulkheadError IMAGE_NOT_FOUND when the image is being removed
   */
  take(id: string, holder: number): Disposable {
    const identity = processIdentity(holder);
    if (identity === null)
      throw new BulkheadError("INTERNAL", { what: `process ${holder} is gone and can hold nothing` });
    mkdirSync(join(this.#dir, id), { recursive: true, mode: DIRECTORY_MODE });
    this.#next += 1;
    const file = join(this.#dir, id, `use-${identity}-${process.pid}-${this.#next}`);
    writeFileSync(file, "");
    const drop = (): void => rmSync(file, { force: true });
    if (this.#live(id, "removing").length > 0) {
      drop();
      throw new BulkheadError("IMAGE_NOT_FOUND", { what: `image ${id} is being removed` });
    }
    return { [Symbol.dispose]: drop };
  }

  /** Keeps new users away until disposed of, or until this process dies. @throws BulkheadError IMAGE_IN_USE */
  forbid(id: string, name: string): Disposable {
    mkdirSync(join(this.#dir, id), { recursive: true, mode: DIRECTORY_MODE });
    const file = join(this.#dir, id, `removing-${processIdentity(process.pid)}`);
    writeFileSync(file, "");
    const allow = (): void => rmSync(file, { force: true });
    const users = this.users(id);
    if (users.length > 0) {
      allow();
      throw new BulkheadError("IMAGE_IN_USE", {
        what: `image "${name}" is in use`,
        why: `by process ${users.join(", ")}`,
        next: "end the sandboxes that run on it and try again",
      });
    }
    return { [Symbol.dispose]: allow };
  }

  /** Pids of the processes that hold the image, each once. */
  users(id: string): readonly number[] {
    return [...new Set(this.#live(id, "use"))];
  }

  #live(id: string, kind: "use" | "removing"): readonly number[] {
    const dir = join(this.#dir, id);
    const live: number[] = [];
    for (const name of listOrEmpty(dir)) {
      const [fileKind, pid, start] = name.split("-");
      if (fileKind !== kind) continue;
      if (processIdentity(Number(pid)) === `${pid}-${start}`) live.push(Number(pid));
      else rmSync(join(dir, name), { force: true });
    }
    return live;
  }
}

export function listOrEmpty(dir: string): readonly string[] {
  try {
    return readdirSync(dir);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}
