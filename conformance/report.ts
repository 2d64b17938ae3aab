import type { Outcome, Verdict } from "./runner.ts";

/** What became of one check at one driver. */
export interface ReportRow {
  readonly driver: string;
  readonly theme: string;
  readonly check: string;
  readonly verdict: Verdict["kind"];
  /** Why it was not run; null when it was. */
  readonly reason: string | null;
  readonly ms: number;
}

export function reportRow(driver: string, { check, verdict, ms }: Outcome): ReportRow {
  return {
    driver,
    theme: check.theme,
    check: check.name,
    verdict: verdict.kind,
    reason: verdict.kind === "skipped" ? verdict.reason : null,
    ms: Math.round(ms),
  };
}
