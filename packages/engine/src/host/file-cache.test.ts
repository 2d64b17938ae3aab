import { mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { createHash } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { FileCache } from "./file-cache.ts";

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "bulkhead-cache-"));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

test("a digest is worked out once for each content, also across processes", async () => {
  const [file, store] = [join(dir, "file"), join(dir, "sub/cache.json")];
  await writeFile(file, "one");
  let described = 0;
  const describe = async (): Promise<string> => `note ${(described += 1)}`;
  const first = await FileCache.open(store);
  expect(await first.identify(file, describe)).toMatchObject({ digest: sha256("one"), note: "note 1" });
  await first.save();
  const second = await FileCache.open(store);
  expect(await second.identify(file, describe)).toMatchObject({ digest: sha256("one"), note: "note 1" });
  // Same size, put in place by rename: only inode and times tell.
  await writeFile(join(dir, "new"), "two");
  await rename(join(dir, "new"), file);
  expect(await second.identify(file, describe)).toMatchObject({ digest: sha256("two"), note: "note 2" });
});

test.each(["", "{", "null", "[1]", '{"/x":{"key":1}}', '{"/x":null}'])(
  "a damaged cache is an empty one: %s",
  async (text) => {
    const store = join(dir, "cache.json");
    await writeFile(store, text);
    await writeFile(join(dir, "file"), "one");
    const cache = await FileCache.open(store);
    expect((await cache.identify(join(dir, "file"))).digest).toBe(sha256("one"));
    await cache.save();
    expect(JSON.parse(await readFile(store, "utf8"))).toHaveProperty([join(dir, "file"), "digest"], sha256("one"));
  },
);
