import { chmod, mkdir, mkdtemp, readFile, readdir, rm, rmdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { output } from "./timing.ts";

const CGROUP_ROOT = "/sys/fs/cgroup";
/** A runtime that was killed needs a moment to be reaped before its group is empty. */
const EMPTY_WAIT_MS = 5_000;

/**
 * Everything the bench makes lies in one temporary directory and below one control group path; both are gone when it is
 * disposed of, whatever the peers left in them.
 */
export class Lab implements AsyncDisposable {
  readonly directory: string;
  /** Path below each controller's root, with a leading slash. */
  readonly cgroup: string;
  readonly #undo = new AsyncDisposableStack();
  #serial = 0;

  private constructor(directory: string, cgroup: string) {
    this.directory = directory;
    this.cgroup = cgroup;
    this.#undo.defer(() => rm(directory, { recursive: true, force: true }));
    this.#undo.defer(() => removeGroups(cgroup));
  }

  static async make(): Promise<Lab> {
    const directory = await mkdtemp(join(tmpdir(), "bulkhead-bench-"));
    // Runtimes pass through it under ids of their own.
    await chmod(directory, 0o755);
    return new Lab(directory, `/${directory.slice(directory.lastIndexOf("/") + 1)}`);
  }

  /** Run at the end, last first, before the directory is removed. */
  defer(undo: () => Promise<void> | void): void {
    this.#undo.defer(async () => {
      try {
        await undo();
      } catch (error) {
        process.stderr.write(`bench: undoing failed: ${String(error)}\n`);
      }
    });
  }

  /** Fixed length: runsc takes abbreviations of ids, so that one must not begin another. */
  id(): string {
    this.#serial += 1;
    return `bench-${process.pid}-${String(this.#serial).padStart(6, "0")}`;
  }

  async path(...parts: readonly string[]): Promise<string> {
    const path = join(this.directory, ...parts);
    await mkdir(path, { recursive: true });
    return path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#undo.disposeAsync();
  }
}

async function groupsBelow(path: string): Promise<string[]> {
  const entries = await readdir(path, { withFileTypes: true }).catch(() => []);
  const nested = await Promise.all(entries.filter((e) => e.isDirectory()).map((e) => groupsBelow(join(path, e.name))));
  return [...nested.flat(), path];
}

async function groupDirectories(cgroup: string): Promise<string[]> {
  const hierarchies = (await readdir(CGROUP_ROOT, { withFileTypes: true }))
    .filter((e) => e.isDirectory())
    .map((e) => join(CGROUP_ROOT, e.name));
  const found = await Promise.all(
    [CGROUP_ROOT, ...hierarchies].map(async (hierarchy) => {
      // Where there is no such file, the hierarchy is covered by a file system of the bench's own, which vanishes with it.
      const real = (await readFile(join(hierarchy, "cgroup.procs")).catch(() => null)) !== null;
      const root = join(hierarchy, cgroup);
      return real && (await readdir(root).catch(() => null)) !== null ? await groupsBelow(root) : [];
    }),
  );
  return found.flat();
}

async function removeGroups(cgroup: string): Promise<void> {
  const deadline = performance.now() + EMPTY_WAIT_MS;
  for (;;) {
    const directories = await groupDirectories(cgroup);
    if (directories.length === 0) return;
    for (const directory of directories) {
      for (const pid of await members(directory)) {
        try {
          process.kill(pid, "SIGKILL");
        } catch {
          // It has ended since the list was read.
        }
      }
      await rmdir(directory).catch(() => undefined);
    }
    if (performance.now() > deadline)
      throw new Error(`control groups remain: ${(await groupDirectories(cgroup)).join(", ")}`);
    await sleep(20);
  }
}

async function members(directory: string): Promise<number[]> {
  const text = await readFile(join(directory, "cgroup.procs"), "latin1").catch(() => "");
  return text.split("\n").filter(Boolean).map(Number);
}

/** Process ids in the memory group at this path, or in any group whose path ends with it. */
export async function processesOf(part: string): Promise<number[]> {
  const pids = (await readdir("/proc")).filter((n) => /^\d+$/.test(n)).map(Number);
  const inside = await Promise.all(
    pids.map(async (pid) => (await readFile(`/proc/${pid}/cgroup`, "latin1").catch(() => "")).includes(part)),
  );
  return pids.filter((_, i) => inside[i]);
}

/** Processes whose command line names `part`: monitors that exist for one sandbox only. */
export async function processesNaming(part: string): Promise<number[]> {
  const pids = (await readdir("/proc")).filter((n) => /^\d+$/.test(n)).map(Number);
  const naming = await Promise.all(
    pids.map(async (pid) => (await readFile(`/proc/${pid}/cmdline`, "latin1").catch(() => "")).includes(part)),
  );
  return pids.filter((pid, i) => naming[i] && pid !== process.pid);
}

export async function pssOf(pids: readonly number[]): Promise<number> {
  const each = await Promise.all(
    [...new Set(pids)].map(async (pid) => {
      const text = await readFile(`/proc/${pid}/smaps_rollup`, "latin1").catch(() => "");
      return Number(/^Pss:\s+(\d+)/m.exec(text)?.[1] ?? "0") * 1024;
    }),
  );
  return each.reduce((a, b) => a + b, 0);
}

/** What the memory controller charges to the group of this process. */
export async function chargedTo(pid: number): Promise<number> {
  const lines = (await readFile(`/proc/${pid}/cgroup`, "latin1").catch(() => "")).split("\n");
  const v1 = lines.find((l) => l.split(":")[1] === "memory")?.split(":")[2];
  const path =
    v1 === undefined
      ? join(CGROUP_ROOT, lines.find((l) => l.startsWith("0::"))?.slice(3) ?? "/")
      : join(CGROUP_ROOT, "memory", v1);
  for (const name of ["memory.usage_in_bytes", "memory.current"]) {
    const value = await readFile(join(path, name), "latin1").catch(() => null);
    if (value !== null) return Number(value);
  }
  return Number.NaN;
}

export async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFile(path, JSON.stringify(value));
}

/** Bytes that a tree takes on disk; what is linked counts once. */
export async function diskBytes(path: string): Promise<number> {
  return Number.parseInt(await output(["du", "--summarize", "--block-size=1", path]), 10);
}
