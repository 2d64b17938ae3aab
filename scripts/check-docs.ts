import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CHECKS } from "../conformance/checks/index.ts";
import { ERRORS } from "../packages/contract/src/errors.ts";
import { evidenceProblems } from "../tests/evidence/page.ts";

const EXIT_CODES = "docs/exit-codes.md";
const SPEC = "SPEC.md";
const EVIDENCE = "docs/evidence.md";

type Registry = Readonly<Record<string, { readonly exit: number; readonly http: number; readonly retryable: boolean }>>;

/** The row that docs/exit-codes.md must have for an error. */
export function errorRow(code: string, { exit, http, retryable }: Registry[string]): string {
  return `| \`${code}\` | ${exit} | ${http} | ${retryable ? "yes" : "no"} |`;
}

/** What differs between the page and the registry, both ways, one line each. */
export function exitCodeProblems(page: string, registry: Registry): readonly string[] {
  const lines = page.split("\n");
  const rows = lines.filter((line) => /^\| `[A-Z_]+` \|/.test(line));
  const expected = Object.entries(registry).map(([code, entry]) => errorRow(code, entry));
  const documented = new Set(lines.flatMap((line) => /^\| (\d+) \|/.exec(line)?.[1] ?? []));
  const used = new Set(Object.values(registry).map(({ exit }) => String(exit)));
  return [
    ...expected.filter((row) => !rows.includes(row)).map((row) => `missing: ${row}`),
    ...rows.filter((row) => !expected.includes(row)).map((row) => `not in the registry: ${row}`),
    ...[...used].filter((exit) => !documented.has(exit)).map((exit) => `exit code ${exit} is not explained`),
    ...[...documented].filter((exit) => !used.has(exit)).map((exit) => `exit code ${exit} is explained and never used`),
  ];
}

/** The page with its table of errors replaced by the registry's. */
export function withErrorTable(page: string, registry: Registry): string {
  const kept = page.split("\n").filter((line) => !/^\| `[A-Z_]+` \|/.test(line));
  return `${kept.join("\n").trimEnd()}\n${Object.entries(registry)
    .map(([code, entry]) => `${errorRow(code, entry)}\n`)
    .join("")}`;
}

/** Where one promise of SPEC.md is kept: a file, and the name of a check in it unless the whole file is meant. */
export function promisedTests(page: string): readonly { readonly file: string; readonly name: string | null }[] {
  return page
    .split("\n")
    .filter((line) => line.startsWith("|"))
    .flatMap((line) =>
      [...line.matchAll(/`([\w./-]+\.(?:ts|rs))`(?: "([^"]+)")?/g)].map(([, file = "", name]) => ({
        file,
        name: name ?? null,
      })),
    );
}

/** Tests named in SPEC.md that are not in the tree, and promises that name none. */
export function specProblems(page: string, source: (file: string) => string | null): readonly string[] {
  const bare = page
    .split("\n")
    .filter((line) => /^\| [A-Z0-9]/.test(line) && !line.includes("*pending") && promisedTests(line).length === 0)
    .map((line) => `no test and not pending: ${line}`);
  const missing = promisedTests(page).flatMap(({ file, name }) => {
    const text = source(file);
    if (text === null) return [`${file} is not there`];
    return name === null || text.includes(name) ? [] : [`${file} has no "${name}"`];
  });
  return [...bare, ...missing];
}

if (import.meta.main) {
  const root = join(import.meta.dirname, "..");
  const path = join(root, EXIT_CODES);
  const page = readFileSync(path, "utf8");
  if (process.argv.includes("--write")) writeFileSync(path, withErrorTable(page, ERRORS));
  const problems = exitCodeProblems(readFileSync(path, "utf8"), ERRORS);
  for (const problem of problems) console.log(`${EXIT_CODES}: ${problem}`);
  if (problems.length > 0) console.log("./x docs --write puts the table right");
  const broken = specProblems(readFileSync(join(root, SPEC), "utf8"), (file) => {
    const at = join(root, file);
    return existsSync(at) ? readFileSync(at, "utf8") : null;
  });
  for (const problem of broken) console.log(`${SPEC}: ${problem}`);
  const stale = evidenceProblems(readFileSync(join(root, EVIDENCE), "utf8"), CHECKS);
  for (const problem of stale) console.log(`${EVIDENCE}: ${problem}`);
  if (stale.length > 0) console.log("./x evidence makes the page anew");
  // The page is the record of a run: a check that was renamed since is told, and asks nobody for another run at once.
  const shapeless = stale.filter((problem) => problem.startsWith("there is no table"));
  process.exitCode = problems.length + broken.length + shapeless.length === 0 ? 0 : 1;
}
