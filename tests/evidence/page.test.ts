import { expect, test } from "vitest";
import type { ReportRow } from "../../conformance/report.ts";
import { ALL_ATTACKS, CONTROL } from "../escape/support/catalogue.ts";
import { evidencePage, evidenceProblems } from "./page.ts";

const row = (driver: string, theme: string, check: string, verdict: ReportRow["verdict"]): ReportRow => ({
  ...{ driver, theme, check, verdict, ms: 1 },
  reason: verdict === "skipped" ? "why" : null,
});
const rows = [
  row("a", "limits", "memory | swap", "passed"),
  row("b", "limits", "memory | swap", "failed"),
  row("a", "boundary", "files", "skipped"),
  row("b", "boundary", "files", "unsteady"),
];
const told = Object.fromEntries(ALL_ATTACKS.map((attack) => [attack, "nothing"]));
const report = {
  secrets: ["secret"],
  runs: [
    { place: CONTROL, unavailable: null, told: { ...told, setns: "a secret" }, marks: [] },
    { place: "a", unavailable: null, told, marks: [] },
  ],
};
const reach = [{ place: "a", who: "programs", native: [200, 4], compat: [0, 0], x32: null } as const];
const page = evidencePage({ host: [["kernel", "Linux"]], drivers: ["a", "b"] }, rows, reach, report);

test("verdicts of a run stand in their tables, whatever they are", () => {
  expect(page).toContain("| limits: memory \\| swap | holds | **FAILS** |");
  expect(page).toContain("| boundary: files | – | holds |");
  expect(page).toContain("| boundary | – | 1 of 1 |");
  expect(page).toContain("| a | programs | 204 | 4 | 0 | – |");
  expect(page).toMatch(/\| setns \| .* \| falls \| holds \|/);
  expect(page).toMatch(/\| af-alg \| .* \| uncalibrated \| uncalibrated \|/);
});

test("a page that was made from other checks than there are is told by their names", () => {
  const checks = [
    { theme: "limits", name: "memory | swap" },
    { theme: "boundary", name: "files" },
  ];
  expect(evidenceProblems(page, checks)).toEqual([]);
  expect(evidenceProblems(page, checks.slice(1))).toHaveLength(2);
  expect(evidenceProblems(page.replace("| setns |", "| gone |"), checks)).toEqual(['Attacks: there is no "gone"']);
  expect(evidenceProblems("", checks)).toHaveLength(5);
});
