import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { promisify } from "node:util";
import { Engine } from "@bulkhead/engine";
import { processesInCgroup, statusField, type HostProcess } from "../../conformance/host.ts";
import {
  AUDIT_ARCH,
  HIGHEST_ASSIGNED,
  SYSCALLS,
  X32_BIT,
  type Architecture,
} from "../../packages/engine/src/seccomp/syscalls.ts";

/** How many of the host's system calls a process can reach: whatever the arguments, and with some of them besides. */
export interface Reach {
  readonly place: string;
  readonly who: string;
  readonly native: readonly [number, number];
  /** By the 32-bit entry, and by x32's numbers; null where the architecture has none. */
  readonly compat: readonly [number, number] | null;
  readonly x32: readonly [number, number] | null;
}

type Told = Readonly<Record<string, Record<"native" | "compat" | "x32", readonly [number, number]>>>;

const AUDIT_ARCH_I386 = 0x40000003;
const ALL = Array.from({ length: HIGHEST_ASSIGNED + 1 }, (_, number) => number);
/** A virtual machine's threads, hundreds of instructions each, on a busy machine. */
const TIMEOUT_MS = 300_000;

function questions(): Readonly<Record<string, readonly [number, readonly number[]]>> {
  const arch = process.arch as Architecture;
  const native = [AUDIT_ARCH[arch], [...new Set(SYSCALLS[arch].values())]] as const;
  if (arch !== "x64") return { native };
  return { native, compat: [AUDIT_ARCH_I386, ALL], x32: [AUDIT_ARCH.x64, ALL.map((number) => number + X32_BIT)] };
}

async function reachOf(pids: readonly number[]): Promise<Told> {
  const argv = [join(import.meta.dirname, "filters.py"), JSON.stringify(questions()), ...pids.map(String)];
  const { stdout } = await promisify(execFile)("python3", argv, { timeout: TIMEOUT_MS });
  return JSON.parse(stdout) as Told;
}

/**
 * What a process of a sandbox is, seen from outside. Programs of a gVisor sandbox run in processes without a name, which are
 * made by others that the Sentry made and that run nothing of theirs.
 */
function roleOf({ command }: HostProcess, parent: HostProcess | undefined, level: string): string {
  if (level === "container") return "programs";
  if (level === "microvm") return "QEMU";
  const isSentry = (text: string): boolean => /runsc-sandbox| boot\b/.test(text);
  if (/runsc-gofer| gofer\b/.test(command)) return "gofer";
  if (isSentry(command)) return "Sentry";
  return parent !== undefined && isSentry(parent.command) ? "makers of their processes" : "programs";
}

async function driverReach(driver: string, run: string): Promise<readonly Reach[]> {
  await using engine = await Engine.open({ run, drivers: [driver] });
  const [candidate] = engine.candidates;
  if (candidate?.availability.ok !== true) return [];
  const { level } = candidate.driver;
  await using box = await engine.create({ isolation: level });
  const execution = box.exec(["sleep", "1000"]);
  await execution.pid;
  // A process that is being looked at by somebody else cannot be asked; what it may do is then its tracer's decision.
  const found = await processesInCgroup(box.id);
  const traced = await Promise.all(found.map(async ({ pid }) => (await statusField(pid, "TracerPid")) !== "0"));
  const seen = found.filter((_, index) => traced[index] === false);
  const told = await reachOf(seen.map(({ pid }) => pid));
  const most = new Map<string, Reach>();
  for (const one of seen) {
    const { native, compat = null, x32 = null } = told[one.pid] ?? {};
    if (native === undefined) continue;
    const parent = Number(await statusField(one.pid, "PPid"));
    const who = roleOf(
      one,
      found.find(({ pid }) => pid === parent),
      level,
    );
    const before = most.get(who);
    if (before === undefined || sum(before.native) < sum(native))
      most.set(who, { place: driver, who, native, compat, x32 });
  }
  return [...most.values()].toSorted((a, b) => (a.who < b.who ? 1 : -1));
}

export const sum = ([always, some]: readonly [number, number]): number => always + some;

/** The control: a process that nothing filters. */
async function control(): Promise<Reach> {
  const child = spawn("sleep", ["1000"], { stdio: "ignore" });
  await once(child, "spawn");
  try {
    const told = (await reachOf([child.pid ?? 0]))[child.pid ?? 0];
    if (told === undefined) throw new Error("a process of our own told nothing");
    return { place: "none", who: "programs", native: told.native, compat: told.compat ?? null, x32: told.x32 ?? null };
  } finally {
    child.kill("SIGKILL");
  }
}

export async function measureReach(drivers: readonly string[], run: string): Promise<readonly Reach[]> {
  const all: Reach[] = [await control()];
  for (const driver of drivers) all.push(...(await driverReach(driver, run)));
  return all;
}
