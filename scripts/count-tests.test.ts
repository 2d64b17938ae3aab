import { expect, test } from "vitest";
import { countTests } from "./count-tests.ts";

test("counts every test once, and a file that could not be loaded as a failure", () => {
  const results = (...statuses: string[]): { status: string }[] => statuses.map((status) => ({ status }));
  const report = {
    testResults: [
      { status: "passed", assertionResults: results("passed", "skipped", "todo") },
      { status: "failed", assertionResults: results("passed", "failed", "failed") },
      { status: "failed", assertionResults: [] },
    ],
  };
  expect(countTests(JSON.stringify(report))).toBe("2 3 2");
});
