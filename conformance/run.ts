#!/usr/bin/env node
import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { CHECKS } from "./checks/index.ts";
import { reportRow, type ReportRow } from "./report.ts";
import type { Outcome } from "./runner.ts";
import { runChecks } from "./runner.ts";
import { DRIVER_NAMES, targetNamed } from "./targets/index.ts";

const USAGE = `usage: node conformance/run.ts [--driver NAME]... [--allow-missing NAME]... [--only REGEXP] [--patience FACTOR] [--report FILE] [--verbose] [--list]

Runs the suite against every driver, or those named: ${DRIVER_NAMES.join(", ")}.
\`reference\` is the agent without any boundary: the functional checks must pass there and the isolation checks must fail.
--patience gives every wait this many times its time: an emulated processor is that much slower.
--report writes what became of every check to a file, as JSON.
A driver this host lacks fails the run unless --allow-missing names it.
`;

const print = (line: string): void => void process.stdout.write(`${line}\n`);

const { values } = parseArgs({
  options: {
    driver: { type: "string", multiple: true, default: [] },
    "allow-missing": { type: "string", multiple: true, default: [] },
    only: { type: "string" },
    // Read by patience.ts.
    patience: { type: "string", default: "1" },
    report: { type: "string" },
    verbose: { type: "boolean", default: false },
    list: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

/** @returns false when something that was asked for is missing or failed. */
async function main(): Promise<boolean> {
  if (values.help) return (print(USAGE), true);
  if (values.list) {
    for (const check of CHECKS) print(`${check.concern.padEnd(9)}  ${check.theme}: ${check.name}`);
    return (print(`${CHECKS.length} checks`), true);
  }
  const names = values.driver.length > 0 ? values.driver : DRIVER_NAMES;
  const only = values.only === undefined ? null : new RegExp(values.only);
  const outcomes: Outcome[] = [];
  const rows: ReportRow[] = [];
  let missing = 0;
  for (const name of names) {
    const target = targetNamed(name);
    const availability = await target.available();
    if (!availability.ok) {
      const allowed = values["allow-missing"].includes(name);
      print(`${name}  ${allowed ? "NOT RUN, as allowed" : "FAILED: missing on this host"}: ${availability.reason}`);
      if (!allowed) missing += 1;
      continue;
    }
    const own = await runChecks(target, CHECKS, { only, verbose: values.verbose, print });
    print(`${name}: ${summary(own)}\n`);
    outcomes.push(...own);
    rows.push(...own.map((outcome) => reportRow(name, outcome)));
  }
  if (values.report !== undefined) await writeFile(values.report, `${JSON.stringify(rows, null, 1)}\n`);
  const ok = missing === 0 && outcomes.length > 0 && outcomes.every((o) => o.verdict.kind !== "failed");
  for (const { check, verdict } of outcomes)
    if (verdict.kind === "failed" || verdict.kind === "unsteady")
      print(`${verdict.kind}: ${check.theme}: ${check.name}`);
  if (outcomes.length === 0) print("no check was run");
  print(summary(outcomes, missing));
  return ok;
}

function summary(outcomes: readonly Outcome[], missing = 0): string {
  const count = (kind: string): number => outcomes.filter((o) => o.verdict.kind === kind).length;
  const unsteady = count("unsteady");
  const said = unsteady === 0 ? "" : `, of them ${unsteady} only the second time`;
  return `${count("passed") + unsteady} passed${said}, ${count("failed") + missing} failed, ${count("skipped")} skipped`;
}

process.exitCode = (await main()) ? 0 : 1;
