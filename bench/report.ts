import type { Column, Result } from "./parts.ts";
import type { Peer } from "./peer.ts";
import type { Series } from "./schedule.ts";
import { figure, median, p95, table } from "./stats.ts";

/** What the project set out to reach: `ours` against `than` in `key`, at most this factor or this many milliseconds. */
export interface Goal {
  readonly part: Result["part"];
  readonly ours: string;
  readonly key: string;
  readonly than: string | null;
  readonly atMost: number;
  readonly words: string;
}

export const GOALS: readonly Goal[] = [
  {
    part: "cold",
    ours: "bulkhead container",
    key: "pythonFirst",
    than: "crun, same config",
    atMost: 1.3,
    words: "container cold, to python's output",
  },
  {
    part: "cold",
    ours: "bulkhead gvisor",
    key: "pythonFirst",
    than: "runsc, same config",
    atMost: 1.15,
    words: "gVisor cold, to python's output",
  },
  {
    part: "exec",
    ours: "bulkhead container",
    key: "trueDone",
    than: null,
    atMost: 1.5,
    words: "exec of true in a container, ms",
  },
  {
    part: "exec",
    ours: "bulkhead gvisor",
    key: "trueDone",
    than: null,
    atMost: 6,
    words: "exec of true in gVisor, ms",
  },
  {
    part: "cold",
    ours: "bulkhead microvm",
    key: "ready",
    than: null,
    atMost: 70,
    words: "microVM from a template, ready, ms",
  },
  {
    part: "cold",
    ours: "bulkhead microvm, booted",
    key: "ready",
    than: null,
    atMost: 750,
    words: "microVM booted, ready, ms",
  },
  {
    part: "exec",
    ours: "bulkhead microvm",
    key: "trueDone",
    than: null,
    atMost: 30,
    words: "exec of true in a microVM, ms",
  },
  {
    part: "memory",
    ours: "bulkhead microvm",
    key: "pssOfMany",
    than: null,
    atMost: 16,
    words: "memory of an idle microVM, MiB",
  },
  {
    part: "cli",
    ours: "bulkhead run (container)",
    key: "pythonDone",
    than: "docker run",
    atMost: 0.6,
    words: "whole command, container, against docker run",
  },
];

const values = (series: Series, column: Column): readonly number[] => series.values[column.key] ?? [];

function cell(series: Series, column: Column): string {
  const all = values(series, column);
  if (all.length === 0) return "-";
  return column.p95 ? `${figure(median(all))} / ${figure(p95(all))}` : figure(median(all));
}

/** One table of a part: median (and p95), and for ours the ratio to what it stands beside. */
export function printResult(result: Result, peers: readonly Peer[]): string {
  const rows = result.series.map((series) => [
    series.name,
    ...result.columns.map((c) => cell(series, c)),
    ratioCell(result, series, peers),
  ]);
  const header = [
    result.title,
    ...result.columns.map((c) => `${c.title} (${c.unit}${c.p95 ? ", p50 / p95" : ""})`),
    "ratio",
  ];
  const notes = result.series.flatMap((s) => [
    ...(s.failure === null ? [] : [`NOT MEASURED: ${s.name}: ${s.failure}`]),
    ...(s.busy === 0 ? [] : [`${s.name}: ${s.busy} of the runs began on a busy machine`]),
  ]);
  return [table(header, rows), ...notes].join("\n");
}

function ratioCell(result: Result, series: Series, peers: readonly Peer[]): string {
  const against = peers.find((peer) => peer.name === series.name)?.against;
  const base = result.series.find((one) => one.name === against);
  if (against === undefined || base === undefined) return "";
  const ratios = result.columns.map((c) => {
    const [own, other] = [median(values(series, c)), median(values(base, c))];
    return Number.isFinite(own / other) ? (own / other).toFixed(2) : "-";
  });
  return `${ratios.join(" ")} × ${against}`;
}

/** Each goal with what was measured, or nothing for a goal whose part did not run. */
export function printGoals(results: readonly Result[]): string {
  const rows = GOALS.flatMap((goal) => {
    const result = results.find((r) => r.part === goal.part);
    const own = result?.series.find((s) => s.name === goal.ours)?.values[goal.key];
    const base = goal.than === null ? [1] : result?.series.find((s) => s.name === goal.than)?.values[goal.key];
    if (own === undefined || base === undefined) return [];
    const reached = median(own) / median(base);
    return [
      [
        goal.words,
        `≤ ${goal.atMost}${goal.than === null ? "" : ` × ${goal.than}`}`,
        figure(reached),
        reached <= goal.atMost ? "reached" : "NOT REACHED",
      ],
    ];
  });
  return rows.length === 0 ? "" : table(["goal", "at most", "measured", ""], rows);
}
