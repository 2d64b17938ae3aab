import { chmodSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { requirePassable } from "./run-dir.ts";

test("a directory above that others cannot pass through is named, one that is not there yet is fine", () => {
  const top = mkdtempSync(join(tmpdir(), "bulkhead-run-dir-"));
  onTestFinished(() => rmSync(top, { recursive: true }));
  chmodSync(top, 0o711);
  mkdirSync(join(top, "closed"), { mode: 0o700 });
  expect(() => requirePassable(join(top, "new", "run"))).not.toThrow();
  expect(() => requirePassable(join(top, "closed"))).not.toThrow();
  expect(() => requirePassable(join(top, "closed", "run"))).toThrowError(`below ${join(top, "closed")}`);
});
