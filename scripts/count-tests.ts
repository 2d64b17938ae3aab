import { readFileSync } from "node:fs";

/** The counts of a vitest JSON report, as `passed failed skipped`; a file without tests that failed is one failure. */
export function countTests(report: string): string {
  const { testResults } = JSON.parse(report) as VitestReport;
  const statuses = testResults.flatMap(({ status, assertionResults }) => {
    const own = assertionResults.map((result) => result.status);
    return status === "failed" && !own.includes("failed") ? [...own, "failed"] : own;
  });
  const count = (...names: string[]): number => statuses.filter((status) => names.includes(status)).length;
  return [count("passed"), count("failed"), count("skipped", "pending", "todo", "disabled")].join(" ");
}

interface VitestReport {
  readonly testResults: readonly {
    readonly status: string;
    readonly assertionResults: readonly { status: string }[];
  }[];
}

if (import.meta.main) {
  console.log(countTests(readFileSync(process.argv[2] ?? "", "utf8")));
}
