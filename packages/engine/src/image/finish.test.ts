import {
  chownSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { datedShadow, finishRootfs } from "./finish.ts";

test("takes out what is of one build, keeps owners, follows no link, and dates nothing after the newest package", async () => {
  const root = mkdtempSync(join(tmpdir(), "bulkhead-finish-"));
  const outside = mkdtempSync(join(tmpdir(), "bulkhead-outside-"));
  const put = (path: string, content: string, seconds?: number): void => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
    if (seconds !== undefined) utimesSync(join(root, path), seconds, seconds);
  };
  writeFileSync(join(outside, "resolv.conf"), "host's own");
  put("usr/bin/tool", "old", 864_000);
  put("etc/shadow", "root:*:20000:0:99999:7:::\nuser:!:20001:0:99999:7:::\n");
  chownSync(join(root, "etc/shadow"), 0, 42);
  put("etc/machine-id", "0123456789abcdef\n");
  put("etc/passwd-", "backup");
  put("var/log/dpkg.log", "log");
  put("tmp/left", "x");
  put("dev/null", "not a device");
  put("etc/apt/apt.conf.d/99mmdebstrap", "proxy");
  symlinkSync(join(outside, "resolv.conf"), join(root, "etc/resolv.conf"));

  await finishRootfs(root, { buildStartMs: 1_000_000_000_000, sources: ["deb http://mirror.example/ sid main"] });

  const read = (path: string): string => readFileSync(join(root, path), "utf8");
  expect(readFileSync(join(outside, "resolv.conf"), "utf8")).toBe("host's own");
  expect(read("etc/resolv.conf")).toBe("");
  expect(read("etc/machine-id")).toBe("");
  expect(read("etc/apt/sources.list")).toBe("deb http://mirror.example/ sid main\n");
  expect(read("etc/shadow")).toBe("root:*:10:0:99999:7:::\nuser:!:10:0:99999:7:::\n");
  expect(lstatSync(join(root, "etc/shadow"))).toMatchObject({ uid: 0, gid: 42 });
  expect(readdirSync(join(root, "etc/apt/apt.conf.d"))).toEqual([]);
  for (const dir of ["tmp", "dev", "var/log"]) expect(readdirSync(join(root, dir))).toEqual([]);
  for (const path of ["etc", "etc/shadow", "etc/resolv.conf", "usr/bin/tool", ""]) {
    expect(lstatSync(join(root, path)).mtimeMs, path).toBeLessThanOrEqual(864_000_000);
  }
});

test("datedShadow leaves a field that says nothing alone", () => {
  expect(datedShadow("a:*::0::::\n", 5)).toBe("a:*::0::::\n");
});
