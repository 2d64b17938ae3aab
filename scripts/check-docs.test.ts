import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ERRORS } from "../packages/contract/src/errors.ts";
import { exitCodeProblems, withErrorTable, specProblems } from "./check-docs.ts";

test("docs/exit-codes.md and the error registry say the same", () => {
  const page = readFileSync(join(import.meta.dirname, "../docs/exit-codes.md"), "utf8");
  expect(exitCodeProblems(page, ERRORS)).toEqual([]);
});

test("a difference is found both ways", () => {
  const page = "| 125 | ours |\n| 99 | never |\n| `OLD` | 125 | 500 | no |\n";
  const registry = {
    NEW: { exit: 125, http: 500, retryable: true },
    OTHER: { exit: 121, http: 400, retryable: false },
  };
  expect(exitCodeProblems(page, registry)).toEqual([
    "missing: | `NEW` | 125 | 500 | yes |",
    "missing: | `OTHER` | 121 | 400 | no |",
    "not in the registry: | `OLD` | 125 | 500 | no |",
    "exit code 121 is not explained",
    "exit code 99 is explained and never used",
  ]);
});

test("withErrorTable leaves nothing to complain about and changes nothing else", () => {
  const page = "# Title\n\n| 125 | ours |\n\n| error |\n|---|\n| `OLD` | 125 | 500 | no |\n";
  const registry = { NEW: { exit: 125, http: 500, retryable: true } };
  const written = withErrorTable(page, registry);
  expect(written).toBe("# Title\n\n| 125 | ours |\n\n| error |\n|---|\n| `NEW` | 125 | 500 | yes |\n");
  expect(exitCodeProblems(written, registry)).toEqual([]);
});

describe("SPEC.md against the tree", () => {
  const source = (file: string): string | null => (file === "a.test.ts" ? 'check("holds")' : null);

  test("promises with a test that is there, or pending, are fine", () => {
    expect(specProblems('| One | `a.test.ts` "holds" |\n| Two | *pending* |', source)).toEqual([]);
  });

  test("a test that is gone, a check that is gone and a promise without either are told", () => {
    expect(specProblems("| One | `b.test.ts` |", source)).toHaveLength(1);
    expect(specProblems('| One | `a.test.ts` "gone" |', source)).toHaveLength(1);
    expect(specProblems("| One | trust us |", source)).toHaveLength(1);
  });
});
