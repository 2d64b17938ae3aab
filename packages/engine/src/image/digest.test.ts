import { chmodSync, mkdirSync, mkdtempSync, symlinkSync, unlinkSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { runProgram } from "../system/process.ts";
import { digestTree } from "./digest.ts";
import { readXattrs } from "./xattrs.ts";

const timeoutMs = 10_000;

function tree(): string {
  const root = mkdtempSync(join(tmpdir(), "bulkhead-digest-"));
  mkdirSync(join(root, "etc"));
  writeFileSync(join(root, "etc", "name"), "value");
  writeFileSync(Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0xff, 0x41])]), "not utf-8");
  symlinkSync("/etc/name", join(root, "link"));
  return root;
}

const digestOf = async (root: string, config = {}): Promise<string> => (await digestTree(root, config)).digest;

describe("digestTree", () => {
  test("same trees, same digest, whatever their times", async () => {
    const [a, b] = [tree(), tree()];
    utimesSync(join(b, "etc", "name"), 1, 1);
    expect(await digestOf(a)).toBe(await digestOf(b));
    expect(await digestTree(a, {})).toMatchObject({ fileCount: 5, sizeBytes: 14 });
  });

  const changes: Record<string, (root: string) => unknown> = {
    content: (root) => writeFileSync(join(root, "etc", "name"), "other"),
    mode: (root) => chmodSync(join(root, "etc", "name"), 0o4755),
    "a new directory": (root) => mkdirSync(join(root, "new")),
    "a link's target": (root) => (unlinkSync(join(root, "link")), symlinkSync("/etc/other", join(root, "link"))),
    "an attribute": (root) => runProgram(["setcap", "cap_net_raw+ep", join(root, "etc", "name")], { timeoutMs }),
  };
  test.each(Object.keys(changes))("changes with %s", async (name) => {
    const root = tree();
    const before = await digestOf(root);
    await changes[name]?.(root);
    expect(await digestOf(root)).not.toBe(before);
  });

  test("changes with the configuration", async () => {
    const root = tree();
    expect(await digestOf(root, { user: "root" })).not.toBe(await digestOf(root, { user: "user" }));
  });
});

test("readXattrs finds a file's capabilities, also behind a long path", async () => {
  const root = tree();
  const deep = "a".repeat(60);
  mkdirSync(join(root, deep, deep), { recursive: true });
  for (const path of ["etc/name", `${deep}/${deep}/file`]) {
    writeFileSync(join(root, path), "x".repeat(2000));
    const { exitCode } = await runProgram(["setcap", "cap_net_raw+ep", join(root, path)], { timeoutMs });
    expect(exitCode).toBe(0);
  }
  const found = await readXattrs(root);
  expect([...found.keys()].toSorted()).toEqual([`${deep}/${deep}/file`, "etc/name"].toSorted());
  expect(found.get("etc/name")).toEqual({ "security.capability": expect.stringMatching(/^AQAAA/) });
});
