import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { expect, onTestFinished, test } from "vitest";
import { VolumeStore } from "./store.ts";

const MIB = 1024 * 1024;
const SIZE = { sizeBytes: 16 * MIB };

function fresh(): { readonly store: VolumeStore; readonly home: string } {
  const state = mkdtempSync(join(tmpdir(), "bulkhead-volumes-"));
  onTestFinished(() => rmSync(state, { recursive: true }));
  return { store: new VolumeStore(state), home: join(state, "volumes") };
}

async function code(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    if (error instanceof BulkheadError) return error.code;
    throw error;
  }
  return "none";
}

test("a volume is a whole file system of its size, its owner's, empty, in a sparse file of root's alone", async () => {
  const { store, home } = fresh();
  const made = await store.create("data", { sizeBytes: 64 * MIB, inodes: 512, owner: { uid: 7, gid: 8 } });
  expect(made.record).toMatchObject({ sizeBytes: 64 * MIB, inodes: 512, uid: 7, gid: 8 });
  const file = join(home, "data/data.ext4");
  const { size, blocks } = statSync(file);
  expect(size).toBe(64 * MIB);
  expect(blocks * 512).toBeLessThan(16 * MIB);
  expect(statSync(home).mode & 0o777).toBe(0o700);
  execFileSync("/usr/sbin/e2fsck", ["-f", "-n", file]);
  const told = (command: string): string =>
    execFileSync("/usr/sbin/debugfs", ["-R", command, file], { encoding: "utf8" });
  expect(told("stat <2>")).toMatch(/Mode: +01777[^]*User: +7 +Group: +8/);
  expect(told("ls -p /").trim().split("\n")).toHaveLength(2);
  expect(await store.list()).toEqual([made]);
});

test("names, sizes and owners that cannot be are refused, and what is there stays", async () => {
  const { store, home } = fresh();
  for (const name of ["", ".", "..", "../x", "a/b", ".hidden", "UP", "n".repeat(64)])
    expect(await code(store.create(name, SIZE)), name).toBe("SPEC_INVALID");
  for (const wrong of [{ sizeBytes: MIB }, { ...SIZE, inodes: 1 }, { ...SIZE, owner: { uid: -1, gid: 0 } }])
    expect(await code(store.create("one", wrong))).toBe("SPEC_INVALID");
  await store.create("one", SIZE);
  expect(await code(store.create("one", SIZE))).toBe("VOLUME_EXISTS");
  expect(await code(store.remove("two"))).toBe("VOLUME_NOT_FOUND");
  expect(await code(store.attached([{ name: "two", target: "/x", readOnly: true, shared: false }]))).toBe(
    "VOLUME_NOT_FOUND",
  );
  expect(readdirSync(home).toSorted()).toEqual([".lock", "one"]);
});

test("of several that make the same one at once one does; what a killed one left goes with the next", async () => {
  const { store, home } = fresh();
  mkdirSync(join(home, ".new-0123"), { recursive: true });
  mkdirSync(join(home, ".trash-0123"));
  const codes = await Promise.all([1, 2, 3].map(() => code(store.create("one", SIZE))));
  expect(codes.toSorted()).toEqual(["VOLUME_EXISTS", "VOLUME_EXISTS", "none"]);
  expect(readdirSync(home).toSorted()).toEqual([".lock", "one"]);
});

test("one that is locked is listed as used and not removed; a damaged record is told and can be removed", async () => {
  const { store, home } = fresh();
  await store.create("one", SIZE);
  const holder = spawn("flock", ["--shared", join(home, "one/data.ext4"), "sh", "-c", "echo locked; exec cat"]);
  onTestFinished(() => void holder.kill());
  await once(holder.stdout, "data");
  expect((await store.list())[0]?.users).toEqual({ writers: 0, readers: 1 });
  expect(await code(store.remove("one"))).toBe("VOLUME_IN_USE");
  const ended = once(holder, "close");
  holder.stdin.end();
  await ended;
  expect((await store.list())[0]?.users).toEqual({ writers: 0, readers: 0 });
  writeFileSync(join(home, "one/volume.json"), "{}");
  expect((await store.list())[0]?.record).toBeNull();
  expect(await code(store.record("one"))).toBe("VOLUME_INVALID");
  await store.remove("one");
  expect(readdirSync(home)).toEqual([".lock"]);
});
