import { mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { runProgram } from "../../packages/engine/src/system/process.ts";
import plugin from "./plugin.ts";

const repository = join(import.meta.dirname, "../..");
const anywhere = "packages/engine/src/x.ts";

/** Each rule with code it must refuse and code it must let pass, as `[file, source]`. */
const cases: Record<
  string,
  { readonly fires: readonly [string, string][]; readonly passes: readonly [string, string][] }
> = {
  "process-home": {
    fires: [
      [anywhere, 'import { spawn } from "node:child_process"; spawn("x");'],
      [anywhere, 'import * as c from "child_process"; c.spawn("x");'],
      [anywhere, 'export * from "node:child_process";'],
      [anywhere, 'await import("node:child_process");'],
      [anywhere, 'process.getBuiltinModule("node:child_process");'],
      ["packages/cli/src/run/x.ts", 'import { fork } from "node:cluster"; fork();'],
    ],
    passes: [
      ["packages/engine/src/system/x.ts", 'import { spawn } from "node:child_process"; spawn("x");'],
      ["conformance/x.ts", 'import { spawn } from "node:child_process"; spawn("x");'],
      ["packages/cli/src/x.test.ts", 'import { spawn } from "node:child_process"; spawn("x");'],
    ],
  },
  "removal-home": {
    fires: [
      [anywhere, 'import { rmSync } from "node:fs"; rmSync("x", { recursive: true });'],
      [anywhere, 'import * as fs from "node:fs/promises"; await fs.rm("x", { force: true, recursive: true });'],
      [anywhere, 'import { rm } from "node:fs/promises"; export const f = (o: object) => rm("x", o);'],
      [anywhere, 'import { rmSync } from "node:fs"; const o = { recursive: true }; rmSync("x", { ...o });'],
    ],
    passes: [
      [anywhere, 'import { rmSync } from "node:fs"; rmSync("x"); rmSync("y", { force: true });'],
      [
        "packages/engine/src/system/remove-tree.ts",
        'import { rmSync } from "node:fs"; rmSync("x", { recursive: true });',
      ],
    ],
  },
  "environment-home": {
    fires: [
      [anywhere, "export const home = process.env.HOME;"],
      [anywhere, 'export const all = process["env"];'],
      [anywhere, "const { env } = process; export const home = env.HOME;"],
      [anywhere, 'import { env } from "node:process"; export const home = env.HOME;'],
    ],
    passes: [
      ["packages/cli/src/config.ts", "export const home = process.env.HOME;"],
      [anywhere, "export const env = (box: { env: string }) => box.env;"],
    ],
  },
  "no-default-export": {
    fires: [
      [anywhere, "export default 1;"],
      [anywhere, "const a = 1; export { a as default };"],
    ],
    passes: [
      [anywhere, "export const a = 1;"],
      ["vitest.config.ts", "export default {};"],
    ],
  },
  "no-module-state": {
    fires: [
      [anywhere, "let count = 0; export const next = () => (count += 1);"],
      [anywhere, "export let count = 0; count += 1;"],
    ],
    passes: [
      [anywhere, "export const next = (from: number) => { let n = from; n += 1; return n; };"],
      ["a.test.ts", "let prepared = 0; prepared += 1; export {};"],
    ],
  },
  "honest-tests": {
    fires: [
      ["a.test.ts", 'import { test } from "vitest"; test.only("a", () => {});'],
      ["a.test.ts", 'import { describe } from "vitest"; describe.concurrent.only("a", () => {});'],
      ["a.test.ts", 'import { test } from "vitest"; test.skip("a", () => {});'],
      ["a.test.ts", 'import { test } from "vitest"; test.skipIf(process.pid > 1)("a", () => {});'],
    ],
    passes: [
      ["a.test.ts", 'import { test } from "vitest"; test("a", () => {});'],
      [
        "a.test.ts",
        'import { test } from "vitest";\n// Needs a second disk.\ntest.skipIf(process.pid > 1)("a", () => {});',
      ],
    ],
  },
  "node-prefix": {
    fires: [
      [anywhere, 'import { join } from "path"; join("a");'],
      [anywhere, 'await import("fs/promises");'],
    ],
    passes: [[anywhere, 'import { join } from "node:path"; import { x } from "./path.ts"; join(x);']],
  },
};

/** Places of findings as `file:rule`. */
async function lint(files: readonly (readonly [string, string])[]): Promise<readonly string[]> {
  const root = mkdtempSync(join(tmpdir(), "bulkhead-lint-"));
  const rules = Object.fromEntries(Object.keys(plugin.rules).map((name) => [`house/${name}`, "error"]));
  const config = { plugins: [], categories: { correctness: "off" }, jsPlugins: ["./scripts/lint/plugin.ts"], rules };
  mkdirSync(join(root, "scripts"));
  symlinkSync(join(repository, "scripts/lint"), join(root, "scripts/lint"));
  writeFileSync(join(root, ".oxlintrc.json"), JSON.stringify(config));
  for (const [file, source] of files) {
    mkdirSync(dirname(join(root, file)), { recursive: true });
    writeFileSync(join(root, file), source);
  }
  const argv = [process.execPath, join(repository, "node_modules/oxlint/bin/oxlint"), "--format=json", "."];
  const result = await runProgram(argv, { cwd: root, timeoutMs: 60_000 });
  const report = JSON.parse(result.stdout) as { diagnostics: { filename: string; code: string }[] };
  return report.diagnostics.map(({ filename, code }) => `${filename}:${code.replace(/^house\((.*)\)$/, "$1")}`);
}

/** A file name for each case, in the folder that decides about it. */
const placed = (index: number, [file, source]: readonly [string, string]): readonly [string, string] => [
  /remove-tree|config/.test(file) ? file : file.replace(/x?(\.test)?\.ts$/, `case${index}$1.ts`),
  source,
];

describe.each(Object.entries(cases))("house/%s", (rule, { fires, passes }) => {
  const found: string[] = [];
  const bad = fires.map((entry, index) => placed(index, entry));
  const good = passes.map((entry, index) => placed(index + fires.length, entry));

  beforeAll(async () => {
    found.push(...(await lint([...bad, ...good])));
  });

  test.each(bad)("fires in %s: %s", (file) => {
    expect(found).toContain(`${file}:${rule}`);
  });

  test.each(good)("lets pass in %s: %s", (file) => {
    expect(found.filter((place) => place.startsWith(`${file}:`))).toEqual([]);
  });
});

test("every rule has its cases", () => {
  expect(Object.keys(cases).toSorted()).toEqual(Object.keys(plugin.rules).toSorted());
});
