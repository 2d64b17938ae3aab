import { execFileSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { JAIL, jailRoot } from "./jail-root.ts";

describe("jailRoot", () => {
  let state: string;
  let binary: string;

  beforeEach(() => {
    state = mkdtempSync(join(tmpdir(), "bulkhead-jail-"));
    binary = join(state, "program");
    copyFileSync("/usr/bin/true", binary);
  });
  afterEach(() => rmSync(state, { recursive: true }));

  const roots = (): string[] => readdirSync(join(state, "guest/jail")).filter((name) => name !== "lock");

  test("is the same for the same program, and holds it with its libraries", async () => {
    const root = await jailRoot(state, binary);
    expect(readFileSync(join(root, JAIL.binary))).toEqual(readFileSync(binary));
    expect(readdirSync(join(root, "usr/lib/x86_64-linux-gnu"))).toContain("libc.so.6");
    expect(await jailRoot(state, binary)).toBe(root);
    expect(roots()).toHaveLength(1);
  });

  test("holds nothing but the program, its firmware and empty places where the program has its libraries in it", async () => {
    execFileSync("cc", ["-static-pie", "-x", "c", "-o", binary, "-"], { input: "int main(void) { return 0; }\n" });
    const root = await jailRoot(state, binary);
    const files = readdirSync(root, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map(({ parentPath, name }) => join(parentPath, name).slice(root.length));
    const empty = [JAIL.root, JAIL.kernel, JAIL.initramfs];
    expect(files.sort()).toEqual([JAIL.binary, "/usr/share/qemu/qboot.rom", ...empty].sort());
  });

  test("is another as soon as the program is another", async () => {
    const before = await jailRoot(state, binary);
    copyFileSync("/usr/bin/false", binary);
    const after = await jailRoot(state, binary);
    expect(after).not.toBe(before);
    expect(readFileSync(join(after, JAIL.binary))).toEqual(readFileSync("/usr/bin/false"));
  });

  test("is made again when what is remembered of it is damaged or the root is gone", async () => {
    const root = await jailRoot(state, binary);
    for (const name of readdirSync(join(state, "cache"))) writeFileSync(join(state, "cache", name), "{");
    expect(await jailRoot(state, binary)).toBe(root);
    rmSync(root, { recursive: true });
    expect(await jailRoot(state, binary)).toBe(root);
    expect(readFileSync(join(root, JAIL.binary))).toEqual(readFileSync(binary));
  });
});
