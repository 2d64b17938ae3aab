import { formatBytes, formatDuration } from "@bulkhead/contract";
import type { LimitHit, LimitName } from "@bulkhead/engine";
import { printable } from "./style.ts";

interface Words {
  readonly name: string;
  readonly value: (value: number) => string;
  /** What came of it where nothing was killed. */
  readonly effect: string;
  /** The option that sets it. */
  readonly option: string;
}

const WORDS: Readonly<Record<LimitName, Words>> = {
  memory: { name: "memory", value: formatBytes, effect: "", option: "--memory" },
  pids: { name: "process", value: String, effect: "a program was refused another process", option: "--pids" },
  disk: { name: "disk", value: formatBytes, effect: "the writable layer is full", option: "--disk or --inodes" },
  output: { name: "output", value: formatBytes, effect: "", option: "--output-max" },
  timeout: { name: "time", value: formatDuration, effect: "", option: "--timeout" },
  idle: { name: "idle time", value: formatDuration, effect: "", option: "--idle-timeout" },
};

function effectOf({ killed, limit }: LimitHit): string {
  if (killed === null) return WORDS[limit].effect;
  if (killed.what === "sandbox") return "the whole sandbox was ended";
  const who = killed.command === null ? "a program" : printable(killed.command);
  return `${who}${killed.pid === null ? "" : ` (pid ${killed.pid})`} was killed`;
}

function lineOf(hit: LimitHit): string {
  const { name, value, option } = WORDS[hit.limit];
  if (hit.volume !== undefined) return `volume ${hit.volume} is full: ${value(hit.value)}`;
  return `the ${name} limit of ${value(hit.value)} was reached: ${effectOf(hit)}; ${option} sets it`;
}

/** One line for each way a limit was reached: which, its value, what came of it, the option that raises it. */
export function renderLimits(hits: readonly LimitHit[]): readonly string[] {
  const counted = new Map<string, number>();
  for (const hit of hits) {
    const line = lineOf(hit);
    counted.set(line, (counted.get(line) ?? 0) + 1);
  }
  return [...counted].map(([line, times]) => (times === 1 ? line : `${line} (${times} times)`));
}
