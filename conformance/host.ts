import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { chmod, lstat, mkdtemp, open, readFile, readdir, readlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

/** Reading this machine from outside the sandbox, for checks that compare both sides or look for what was left. */

const run = promisify(execFile);
const CGROUP_ROOT = "/sys/fs/cgroup";

export async function hostCommand(argv: readonly [string, ...string[]]): Promise<string> {
  const { stdout } = await run(argv[0], argv.slice(1), { maxBuffer: 64 * 1024 * 1024 });
  return stdout;
}

async function quiet<T>(action: Promise<T>, otherwise: T): Promise<T> {
  try {
    return await action;
  } catch {
    return otherwise;
  }
}

export async function hostPids(): Promise<readonly number[]> {
  return (await readdir("/proc")).filter((name) => /^\d+$/.test(name)).map(Number);
}

export interface HostProcess {
  readonly pid: number;
  readonly cgroup: string;
  readonly command: string;
  readonly environment: string;
  readonly mounts: string;
}

async function hostProcess(pid: number): Promise<HostProcess> {
  const read = (name: string): Promise<string> => quiet(readFile(`/proc/${pid}/${name}`, "latin1"), "");
  const [cgroup, command, environment, mounts] = await Promise.all([
    read("cgroup"),
    read("cmdline"),
    read("environ"),
    read("mountinfo"),
  ]);
  return { pid, cgroup, command: command.replaceAll("\0", " ").trim(), environment, mounts };
}

/** Processes in a control group whose path contains `part`. */
export async function processesInCgroup(part: string): Promise<readonly HostProcess[]> {
  const all = await Promise.all((await hostPids()).map(hostProcess));
  return all.filter((p) => p.cgroup.includes(part));
}

const PAGE = 4096;
/** Of one region at once; what lies across two pieces is not found. */
const PIECE_PAGES = 1024;
/** Address space that is reserved and not used is larger. */
const REGION_MAX_BYTES = 8 * 1024 ** 3;

/** Whether each of the texts is in the writable memory of a process. Only pages that are there are read: none is made. */
export async function heldInMemory(pid: number, texts: readonly string[]): Promise<readonly boolean[]> {
  const held = texts.map(() => false);
  const maps = await quiet(readFile(`/proc/${pid}/maps`, "latin1"), "");
  await using memory = await quiet(open(`/proc/${pid}/mem`), null);
  await using pages = await quiet(open(`/proc/${pid}/pagemap`), null);
  if (memory === null || pages === null) return held;
  for (const [, from = "", to = ""] of maps.matchAll(/^([0-9a-f]+)-([0-9a-f]+) rw/gm)) {
    const [start, end] = [Number.parseInt(from, 16), Number.parseInt(to, 16)];
    for (let at = start; at < end && end - start <= REGION_MAX_BYTES; at += PIECE_PAGES * PAGE) {
      const count = Math.min(PIECE_PAGES, (end - at) / PAGE);
      const entries = Buffer.alloc(count * 8);
      await quiet(pages.read(entries, 0, entries.length, (at / PAGE) * 8), null);
      // The highest bit says that a page is in memory.
      const there = Array.from({ length: count }, (_, i) => (entries[i * 8 + 7]! & 0x80) !== 0);
      for (let first = there.indexOf(true); first !== -1;) {
        const next = there.indexOf(false, first);
        const last = next === -1 ? count : next;
        const bytes = Buffer.alloc((last - first) * PAGE);
        await quiet(memory.read(bytes, 0, bytes.length, at + first * PAGE), null);
        for (const [i, text] of texts.entries()) held[i] ||= bytes.includes(text, 0, "latin1");
        first = there.indexOf(true, last);
      }
    }
  }
  return held;
}

/** Processes in whose mount namespace `path` is part of a mount. */
export async function processesSeeing(path: string): Promise<readonly number[]> {
  const all = await Promise.all((await hostPids()).map(hostProcess));
  return all.filter((p) => p.mounts.includes(path)).map((p) => p.pid);
}

/** One field of /proc/<pid>/status, trimmed. */
export async function statusField(pid: number, field: string): Promise<string> {
  const line = (await readFile(`/proc/${pid}/status`, "latin1")).split("\n").find((l) => l.startsWith(`${field}:`));
  return line?.slice(field.length + 1).trim() ?? "";
}

export async function namespaceOf(pid: number | "self", name: string): Promise<string> {
  return await readlink(`/proc/${pid}/ns/${name}`);
}

async function directoriesBelow(path: string): Promise<string[]> {
  const entries = await quiet(readdir(path, { withFileTypes: true }), []);
  const own = entries.filter((e) => e.isDirectory()).map((e) => join(path, e.name));
  return [...own, ...(await Promise.all(own.map(directoriesBelow))).flat()];
}

/** Directories of every control group hierarchy whose path contains `part`. */
export async function cgroupDirectories(part: string): Promise<readonly string[]> {
  return (await directoriesBelow(CGROUP_ROOT)).filter((path) => path.includes(part));
}

/** Reads a control group file of the first hierarchy that has it in a directory whose path contains `part`. */
export async function cgroupValue(part: string, names: readonly string[]): Promise<string | null> {
  for (const directory of await cgroupDirectories(part)) {
    for (const name of names) {
      const value = await quiet(readFile(join(directory, name), "latin1"), null);
      if (value !== null) return value.trim();
    }
  }
  return null;
}

/** Leaves a control group whose path contains `part` only so much memory more than it uses now, as no sandbox could. */
export async function squeezeMemory(part: string, spareBytes: number): Promise<void> {
  for (const directory of await cgroupDirectories(part)) {
    for (const [used, limit] of [
      ["memory.current", "memory.max"],
      ["memory.usage_in_bytes", "memory.limit_in_bytes"],
    ] as const) {
      const bytes = await quiet(readFile(join(directory, used), "latin1"), null);
      if (bytes === null) continue;
      return await writeFile(join(directory, limit), String(Number(bytes) + spareBytes));
    }
  }
  throw new Error(`no control group of ${part} counts memory`);
}

/** Processor time that everything in a control group whose path contains `part` has used. */
export async function cgroupCpuSeconds(part: string): Promise<number> {
  const v1 = await cgroupValue(part, ["cpuacct.usage"]);
  if (v1 !== null) return Number(v1) / 1e9;
  const v2 = /^usage_usec (\d+)$/m.exec((await cgroupValue(part, ["cpu.stat"])) ?? "")?.[1];
  if (v2 === undefined) throw new Error(`no control group of ${part} counts processor time`);
  return Number(v2) / 1e6;
}

export async function exists(path: string): Promise<boolean> {
  return (await quiet(lstat(path), null)) !== null;
}

export async function filesBelow(path: string): Promise<string[]> {
  const entries = await quiet(readdir(path, { withFileTypes: true }), []);
  const nested = entries.filter((e) => e.isDirectory()).map((e) => filesBelow(join(path, e.name)));
  return [...entries.map((e) => join(path, e.name)), ...(await Promise.all(nested)).flat()];
}

/** The mounts of every mount namespace some thread is in; threads of one process may be in different ones. */
async function mountNamespaces(): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>();
  for (const pid of await hostPids()) {
    for (const task of await quiet(readdir(`/proc/${pid}/task`), [])) {
      const namespace = await quiet(readlink(`/proc/${pid}/task/${task}/ns/mnt`), null);
      if (namespace === null || found.has(namespace)) continue;
      const mounts = await quiet(readFile(`/proc/${pid}/task/${task}/mountinfo`, "latin1"), null);
      if (mounts !== null) found.set(namespace, mounts);
    }
  }
  return found;
}

/**
 * Everything on this machine that names one of `needles` (sandbox ids, a run directory): processes by command line,
 * environment or control group, mounts in every mount namespace, control groups. One line each; empty when nothing is left.
 * @param except processes that name a needle by right, such as the one that looks.
 */
export async function traces(needles: readonly string[], except: readonly number[] = []): Promise<readonly string[]> {
  const found: string[] = [];
  const has = (text: string): boolean => needles.some((n) => text.includes(n));
  const processes = (await Promise.all((await hostPids()).map(hostProcess))).filter(
    (p) => !except.includes(p.pid) && p.pid !== process.pid,
  );
  for (const p of processes) {
    if (has(p.command) || has(p.environment) || has(p.cgroup))
      found.push(`process ${p.pid}: ${p.command.slice(0, 200)}`);
  }
  for (const [namespace, mounts] of await mountNamespaces()) {
    for (const line of mounts.split("\n")) if (has(line)) found.push(`mount in ${namespace}: ${line}`);
  }
  for (const directory of await directoriesBelow(CGROUP_ROOT))
    if (has(directory)) found.push(`control group ${directory}`);
  return found;
}

export interface HeldDevice {
  /** Says what file the device's contents are, as long as there are any: `/sys/block/loop3/loop/backing_file`. */
  readonly path: string;
  /** `/var/lib/bulkhead/scratch/#1234 (deleted)` */
  readonly file: string;
}

/** Loop devices that are mounted for a sandbox, in whatever mount namespace. */
export async function loopDevicesOf(id: string): Promise<readonly HeldDevice[]> {
  const names = new Set<string>();
  for (const mounts of (await mountNamespaces()).values()) {
    for (const [, name] of mounts.matchAll(new RegExp(`/${id}/disk .* /dev/(loop\\d+) `, "g"))) names.add(name!);
  }
  const held = [...names].map(async (name) => {
    const path = `/sys/block/${name}/loop/backing_file`;
    return { path, file: (await readFile(path, "utf8")).trim() };
  });
  return Promise.all(held);
}

export interface Weight {
  readonly rssBytes: number;
  readonly descriptors: number;
}

export async function weightOf(pid: number): Promise<Weight> {
  const rss = /(\d+)/.exec(await statusField(pid, "VmRSS"))?.[1] ?? "0";
  return { rssBytes: Number(rss) * 1024, descriptors: (await readdir(`/proc/${pid}/fd`)).length };
}

export async function childrenOf(pid: number): Promise<readonly number[]> {
  const all = await Promise.all(
    (await hostPids()).map(async (p) => [p, Number(await quiet(statusField(p, "PPid"), "0"))] as const),
  );
  return all.filter(([, parent]) => parent === pid).map(([child]) => child);
}

/** The process started by `parent` whose command line names `directory`. Looked up each time: it may have been replaced. */
export function keeperOf(parent: number, directory: string): number {
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const status = readFileSync(`/proc/${name}/status`, "latin1");
      const command = readFileSync(`/proc/${name}/cmdline`, "latin1").split("\0");
      if (status.includes(`\nPPid:\t${parent}\n`) && command.includes(directory)) return Number(name);
    } catch {
      // It ended between the listing and the reading.
    }
  }
  throw new Error(`process ${parent} has no keeper for ${directory}`);
}

/** A fresh directory that other users can pass through: the runtimes do so under ids of their own. */
export async function freshDirectory(prefix: string, above: string = tmpdir()): Promise<string> {
  const directory = await mkdtemp(join(above, prefix));
  await chmod(directory, 0o755);
  return directory;
}
