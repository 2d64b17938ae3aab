import { Malformed, type WireReader } from "../channel/codec.ts";
import { readProcess, type Process } from "../channel/wire.gen.ts";
import { answerOf, call, type CallOptions, type Inside, records } from "./calls.ts";
import { safeNumber, untrustedText } from "./errors.ts";
import { MAX_PID, whole } from "./names.ts";
import { type SignalInput, signalName, signalNumber } from "./signals.ts";

/** More processes than any sandbox's pids limit in practice; a longer list is a lie. */
const MAX_PROCESSES = 65_536;

/** One process inside. `command` is its command line, untrusted. Times in milliseconds, `startedMs` after the sandbox's boot. */
export interface ProcessInfo {
  readonly pid: number;
  readonly parentPid: number;
  readonly uid: number;
  /** The kernel's letter: R, S, D, T, Z, … */
  readonly state: string;
  readonly rssBytes: number;
  readonly cpuMs: number;
  readonly startedMs: number;
  /** Started by `exec`, so that `connect` finds it. */
  readonly managed: boolean;
  readonly command: string;
}

/** What the sandbox uses by its own account; sizes in bytes, times in milliseconds. */
export interface SandboxUsage {
  readonly processes: number;
  readonly memoryUsedBytes: number;
  readonly memoryTotalBytes: number;
  readonly cpus: number;
  readonly cpuMs: number;
  readonly uptimeMs: number;
  readonly diskUsedBytes: number;
  readonly diskTotalBytes: number;
  readonly agentRssBytes: number;
  /** Waited at the limit on processor time, by the host's count; absent where no host counts. */
  readonly throttledMs?: number;
}

function toProcess(process: Process): ProcessInfo {
  return {
    pid: process.pid,
    parentPid: process.ppid,
    uid: process.uid,
    state: untrustedText(String.fromCharCode(process.state)),
    rssBytes: safeNumber(process.rssBytes),
    cpuMs: safeNumber(process.cpuMs),
    startedMs: safeNumber(process.startedMs),
    managed: process.managed,
    command: Buffer.from(process.command).toString("utf8"),
  };
}

export async function listProcesses(inside: Inside, options: CallOptions = {}): Promise<ProcessInfo[]> {
  const found: ProcessInfo[] = [];
  const read = (reader: WireReader): ProcessInfo => {
    if (found.length >= MAX_PROCESSES) throw new Malformed(`more than ${MAX_PROCESSES} processes`);
    return toProcess(readProcess(reader));
  };
  for await (const process of records(
    inside,
    { name: "ListProcesses", body: {} },
    "the list of processes",
    read,
    options,
  )) {
    found.push(process);
  }
  return found;
}

/** @param group also the processes of its group. */
export async function signalProcess(
  inside: Inside,
  pid: number,
  signal: SignalInput,
  options: CallOptions & { readonly group?: boolean } = {},
): Promise<void> {
  const number = signalNumber(signal);
  const body = { pid: whole(pid, "pid", 1, MAX_PID), signal: number, group: options.group ?? false };
  await call(inside, { name: "SignalProcess", body }, `process ${pid}, to be sent ${signalName(number)},`, options);
}

export async function readUsage(inside: Inside, options: CallOptions = {}): Promise<SandboxUsage> {
  const usage = answerOf(await call(inside, { name: "GetUsage", body: {} }, "the sandbox's usage", options), "Usage");
  return {
    processes: usage.processes,
    memoryUsedBytes: safeNumber(usage.memoryUsedBytes),
    memoryTotalBytes: safeNumber(usage.memoryTotalBytes),
    cpus: usage.cpus,
    cpuMs: safeNumber(usage.cpuMs),
    uptimeMs: safeNumber(usage.uptimeMs),
    diskUsedBytes: safeNumber(usage.diskUsedBytes),
    diskTotalBytes: safeNumber(usage.diskTotalBytes),
    agentRssBytes: safeNumber(usage.agentRssBytes),
  };
}
