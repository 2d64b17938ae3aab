import type { ReportRow } from "../../conformance/report.ts";
import { ALL_ATTACKS, ATTACKS } from "../escape/support/catalogue.ts";
import { type Report, verdict } from "../escape/support/report.ts";
import { sum, type Reach } from "./reach.ts";

/** What the page says of where it was made. */
export interface Facts {
  /** Name and value, in order. */
  readonly host: readonly (readonly [string, string])[];
  /** Columns, in order. */
  readonly drivers: readonly string[];
}

/** Themes whose checks are listed one by one; of all others the page says how many there are. */
const LISTED: Readonly<Record<string, readonly string[]>> = {
  Limits: ["limits", "neighbours"],
  "The boundary, check by check": ["boundary", "plan", "microvm", "mounts of guests", "mounts", "storage"],
};
const WORDS = { passed: "holds", unsteady: "holds", failed: "**FAILS**", skipped: "–" } as const;
const ATTACK_WORDS = {
  "came-back": "falls",
  held: "holds",
  uncalibrated: "uncalibrated",
  broken: "**BROKEN**",
  "not-run": "not run",
} as const;

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  return [line(head), `|${head.map(() => "---|").join("")}`, ...rows.map(line)].join("\n");
}

const unique = <T>(items: readonly T[]): readonly T[] => [...new Set(items)];

function listed(rows: readonly ReportRow[], themes: readonly string[], drivers: readonly string[]): string {
  const mine = rows.filter(({ theme }) => themes.includes(theme));
  const names = unique(mine.map(({ theme, check }) => `${theme}: ${check}`));
  return table(
    ["check", ...drivers],
    names.map((name) => [
      name,
      ...drivers.map((driver) => {
        const row = mine.find((one) => one.driver === driver && `${one.theme}: ${one.check}` === name);
        return row === undefined ? "not run" : WORDS[row.verdict];
      }),
    ]),
  );
}

/** `9 of 9`, or with what does not apply there. */
function count(rows: readonly ReportRow[]): string {
  if (rows.length === 0) return "not run";
  const skipped = rows.filter(({ verdict: one }) => one === "skipped").length;
  const failed = rows.filter(({ verdict: one }) => one === "failed").length;
  const applicable = rows.length - skipped;
  return applicable === 0 ? "–" : `${applicable - failed} of ${applicable}${skipped > 0 ? `, ${skipped} –` : ""}`;
}

function groups(rows: readonly ReportRow[], drivers: readonly string[]): string {
  const themes = unique(rows.map(({ theme }) => theme));
  return table(
    ["group", ...drivers],
    themes.map((theme) => [
      theme,
      ...drivers.map((driver) => count(rows.filter((one) => one.driver === driver && one.theme === theme))),
    ]),
  );
}

function reached(reach: readonly Reach[]): string {
  const some = (pair: readonly [number, number] | null): string => (pair === null ? "–" : `${sum(pair)}`);
  return table(
    ["driver", "who", "calls", "of these, by argument", "32-bit entry", "x32"],
    reach.map(({ place, who, native, compat, x32 }) => [
      place,
      who,
      some(native),
      `${native[1]}`,
      some(compat),
      some(x32),
    ]),
  );
}

function attacks(report: Report): string {
  return table(
    ["attack", "what is tried", ...report.runs.map(({ place }) => place)],
    ALL_ATTACKS.map((attack) => [
      attack,
      ATTACKS[attack],
      ...report.runs.map((run) => ATTACK_WORDS[verdict(report, run, attack)]),
    ]),
  );
}

/** docs/evidence.md. */
export function evidencePage(
  facts: Facts,
  rows: readonly ReportRow[],
  reach: readonly Reach[],
  report: Report,
): string {
  const { drivers } = facts;
  const sections = Object.entries(LISTED).map(([title, themes]) => `## ${title}\n\n${listed(rows, themes, drivers)}`);
  return `# Evidence

What one build was seen to do on one machine, written by \`./x evidence\` and by nobody's hand: verdicts, not promises. Those stand
in [SPEC.md](../SPEC.md), each with its test. \`–\` does not apply to the level, which the suite gives its reason for.

${table(["", ""], facts.host)}

${sections[0]}

## All groups of checks

${groups(rows, drivers)}

${sections[1]}

## System calls of the host within reach

Read from the kernel, not from what a process says: the filters of each process of a sandbox, followed for every number with
arguments that may be anything. So each figure is an upper bound; what a call is allowed for may be one argument of many. The
first row is a process that nothing filters. At \`gvisor\` calls of programs go to the Sentry, which is what could be
taken over; at \`microvm\` a guest's programs make none, and the row is the jail around QEMU.

${reached(reach)}

## Attacks, each with its control

Run as root inside. The control is a place with nothing that keeps them away: an attack that does not succeed there proves nothing and is
*uncalibrated*. What success is: a secret of the host came back, or the host bears a mark.

${attacks(report)}
`;
}

/** Names in the page's tables that no check, group or attack has: it was made from other tests than those there are. */
export function evidenceProblems(
  page: string,
  checks: readonly { readonly theme: string; readonly name: string }[],
): readonly string[] {
  const first = (title: string): readonly string[] => {
    const section = page.split(/^## /m).find((part) => part.startsWith(title)) ?? "";
    const rows = section.split("\n").filter((line) => line.startsWith("| "));
    return rows.slice(1).map((line) => line.slice(2, line.indexOf(" | ")).replaceAll("\\|", "|"));
  };
  const known = new Set(checks.map(({ theme, name }) => `${theme}: ${name}`));
  const themes = new Set(checks.map(({ theme }) => theme));
  const parts: readonly (readonly [string, (name: string) => boolean])[] = [
    ...Object.keys(LISTED).map((title) => [title, (name: string) => known.has(name)] as const),
    ["All groups of checks", (name) => themes.has(name)],
    ["System calls of the host within reach", () => true],
    ["Attacks", (name) => name in ATTACKS],
  ];
  return parts.flatMap(([title, isKnown]) => {
    const names = first(title);
    if (names.length === 0) return [`there is no table "${title}"`];
    return names.filter((name) => !isKnown(name)).map((name) => `${title}: there is no ${JSON.stringify(name)}`);
  });
}
