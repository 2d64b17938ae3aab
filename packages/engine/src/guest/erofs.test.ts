import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, readFile, readdir, rm, stat, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { ImageFiles } from "../drivers/driver.ts";
import { erofsImage, uuid } from "./erofs.ts";

const DIGEST = `sha256:${"0123456789abcdef".repeat(4)}`;
const MAGIC_OFFSET = 1024;

function hasMkfs(): boolean {
  try {
    execFileSync("mkfs.erofs", ["--help"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

describe("uuid", () => {
  test("is made of the digest", () => expect(uuid(DIGEST)).toBe("01234567-89ab-cdef-0123-456789abcdef"));
  test.each(["", "sha256:", "sha256:XYZ", "latest"])("refuses %j", (digest) =>
    expect(() => uuid(digest)).toThrow(/digest/),
  );
});

// Only the microvm level needs erofs-utils.
describe.skipIf(!hasMkfs())("erofsImage", () => {
  let dir = "";
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), "erofs-"));
  });
  afterEach(() => rm(dir, { recursive: true }));

  async function image(name: string): Promise<ImageFiles> {
    const rootfs = join(dir, name, "rootfs");
    await mkdir(join(rootfs, "etc"), { recursive: true });
    await writeFile(join(rootfs, "etc/file"), "contents");
    for (const path of ["etc/file", "etc", ""]) await utimes(join(rootfs, path), 1_600_000_000, 1_600_000_000);
    return { reference: name, digest: DIGEST, rootfs, usrBin: false };
  }

  test("equal trees give equal bytes, kept beside the tree and nothing else", async () => {
    const [a, b] = [await image("a"), await image("b")];
    const [pathA, pathB] = [await erofsImage(a), await erofsImage(b)];
    const bytes = await readFile(pathA);
    expect(bytes.readUInt32LE(MAGIC_OFFSET)).toBe(0xe0f5e1e2);
    expect(bytes.equals(await readFile(pathB))).toBe(true);
    expect((await stat(pathA)).mode & 0o777).toBe(0o444);
    expect((await readdir(join(dir, "a"))).sort()).toEqual([
      "root.erofs",
      "root.erofs.lock",
      "root.erofs.sha256",
      "rootfs",
    ]);
  });

  test("calls at the same time build once", async () => {
    const a = await image("a");
    const paths = await Promise.all([erofsImage(a), erofsImage(a), erofsImage(a)]);
    const inodes = await Promise.all(paths.map(async (path) => (await stat(path)).ino));
    expect(new Set(inodes).size).toBe(1);
  });

  test("what a killed build left does no harm", async () => {
    const a = await image("a");
    await writeFile(join(dir, "a/root.erofs.part"), "half");
    expect((await readFile(await erofsImage(a))).readUInt32LE(MAGIC_OFFSET)).toBe(0xe0f5e1e2);
  });

  test("a tree that is not there fails and leaves nothing", async () => {
    const a = { ...(await image("a")), rootfs: join(dir, "a/none") };
    await expect(erofsImage(a)).rejects.toMatchObject({ code: "IMAGE_BUILD_FAILED" });
    expect((await readdir(join(dir, "a"))).sort()).toEqual(["root.erofs.lock", "rootfs"]);
  });
});
