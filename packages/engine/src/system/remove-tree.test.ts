import { existsSync, mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { removeTree } from "./remove-tree.ts";

test("deletes below its home, removes links without following them, and refuses anything else", async () => {
  const home = mkdtempSync(join(tmpdir(), "bulkhead-remove-"));
  mkdirSync(join(home, "keep"));
  writeFileSync(join(home, "keep", "file"), "x");
  mkdirSync(join(home, "gone"));
  symlinkSync(join(home, "keep"), join(home, "gone", "link"));
  await removeTree(join(home, "gone"), home);
  await removeTree(join(home, "never-was"), home);
  expect(existsSync(join(home, "gone"))).toBe(false);
  expect(existsSync(join(home, "keep", "file"))).toBe(true);
  for (const path of [home, `${home}/`, `${home}/../x`, `${home}/a/../..`, `${home}x`, "/", "", "keep"]) {
    await expect(removeTree(path, home), path).rejects.toMatchObject({ code: "INTERNAL" });
  }
  await expect(removeTree("/etc", "/")).rejects.toMatchObject({ code: "INTERNAL" });
  await removeTree(join(home, "keep"), home);
  expect(existsSync(join(home, "keep"))).toBe(false);
});
