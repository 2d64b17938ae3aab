import { ALL_ATTACKS, ATTACKS, CONTROL, type Attack } from "./catalogue.ts";

/** What became of all attacks in one place. */
export interface Run {
  readonly place: string;
  /** Why there was no such place on this machine; null when the attacks ran. */
  readonly unavailable: string | null;
  /** By attack, what its program said. */
  readonly told: Readonly<Record<string, string>>;
  /** Marks that attacks left on the host: `signal`, `self-exe`. */
  readonly marks: readonly string[];
}

export interface Report {
  /** What only the host has. */
  readonly secrets: readonly string[];
  readonly runs: readonly Run[];
}

/**
 * came-back: a secret of the host is in the attacker's hands, or the host bears its mark. uncalibrated: it is not, but not
 * in the control either, so that this kernel lacks what is attacked and no boundary proves anything about it.
 */
export type Verdict = "came-back" | "held" | "uncalibrated" | "broken" | "not-run";

export function verdict(report: Report, run: Run, attack: Attack): Verdict {
  const own = outcome(report, run, attack);
  const control = report.runs.find(({ place }) => place === CONTROL);
  if (own !== "held" || (control !== undefined && outcome(report, control, attack) === "came-back")) return own;
  return "uncalibrated";
}

function outcome(report: Report, run: Run, attack: Attack): Verdict {
  const text = run.told[attack];
  if (run.unavailable !== null || text === undefined) return "not-run";
  if (run.marks.includes(attack) || report.secrets.some((secret) => text.includes(secret))) return "came-back";
  // An attack that does not get to its end proves nothing of the boundary.
  return text.includes("broken: ") ? "broken" : "held";
}

/** Attacks down, places across. */
export function table(report: Report): string {
  const head = ["attack", ...report.runs.map(({ place }) => place)];
  const rows = ALL_ATTACKS.map((attack) => [attack, ...report.runs.map((run) => verdict(report, run, attack))]);
  const width = head.map((_, column) => Math.max(...[head, ...rows].map((row) => (row[column] ?? "").length)));
  const line = (row: readonly string[]): string =>
    row
      .map((cell, i) => cell.padEnd(width[i] ?? 0))
      .join("  ")
      .trimEnd();
  const absent = report.runs.flatMap((r) => (r.unavailable === null ? [] : [`${r.place}: ${r.unavailable}`]));
  return [line(head), ...rows.map(line), ...absent].join("\n");
}

export const titleOf = (attack: Attack): string => `${attack}: ${ATTACKS[attack]}`;
