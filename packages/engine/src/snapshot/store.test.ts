import { chmod, chown, mkdir, mkdtemp, readdir, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseSpec } from "@bulkhead/contract";
import { describe, expect, onTestFinished, test } from "vitest";
import { processIdentity } from "../image/holds.ts";
import { MANIFEST } from "./manifest.ts";
import { requireFile, SnapshotStore } from "./store.ts";

const isRoot = process.getuid?.() === 0;
if (!isRoot) console.error("SKIPPED: snapshots are root's");

const manifest = {
  createdMs: 1,
  level: "microvm",
  driver: "microvm/qemu",
  spec: parseSpec({}),
  binding: {},
  files: { memory: { bytes: 5, digest: `sha256:${"a".repeat(64)}` } },
} as const;

async function state(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "snapshots-"));
  onTestFinished(() => rm(dir, { recursive: true }));
  return dir;
}

const code = (name: string): Error => expect.objectContaining({ code: name }) as Error;

// What it checks is that things are root's; the line above says loudly when it cannot.
describe.skipIf(!isRoot)("the store of snapshots", () => {
  test("one appears whole, is found, listed and removed; another may not take its place", async () => {
    const dir = await state();
    const store = new SnapshotStore(dir);
    await using draft = await store.begin("one");
    expect((await stat(draft.dir)).mode & 0o777).toBe(0o700);
    await expect(store.open("one")).rejects.toThrow(code("SNAPSHOT_NOT_FOUND"));
    const info = await draft.commit(manifest);
    expect(info).toMatchObject({ path: join(dir, "snapshots", "one"), bytes: 5, level: "microvm" });
    expect((await store.open("one")).manifest).toMatchObject(manifest);
    expect((await store.open(info.path)).dir).toBe(info.path);
    expect(await store.list()).toEqual([info]);
    await expect(store.begin("one")).rejects.toThrow(code("SNAPSHOT_EXISTS"));
    expect((await stat(join(info.path, MANIFEST))).mode & 0o777).toBe(0o600);
    await store.remove("one");
    expect(await readdir(join(dir, "snapshots"))).toEqual([]);
    await expect(store.remove("one")).rejects.toThrow(code("SNAPSHOT_NOT_FOUND"));
  });

  test("what was not committed goes; what a dead process left goes with the next, what a living one makes stays", async () => {
    const dir = await state();
    const store = new SnapshotStore(dir);
    const home = join(dir, "snapshots");
    {
      await using dropped = await store.begin("one");
      await writeFile(join(dropped.dir, "memory"), "secret");
    }
    expect(await readdir(home)).toEqual([]);
    const [dead, alive] = [`.bulkhead-snapshot-999999999-1-x`, `.bulkhead-snapshot-${processIdentity(1)}-x`];
    for (const name of [dead, alive]) await mkdir(join(home, name), { mode: 0o700 });
    const foreign = `.bulkhead-snapshot-999999998-1-x`;
    await mkdir(join(home, foreign));
    await chown(join(home, foreign), 1000, 1000);
    await using _next = await store.begin("two");
    const left = await readdir(home);
    expect(left).toContain(alive);
    expect(left).toContain(foreign);
    expect(left).not.toContain(dead);
  });

  test("a place is a name or a plain absolute path", async () => {
    const store = new SnapshotStore(await state());
    for (const bad of ["", "..", ".hidden", "a/b", "UPPER", "/a/../b", "/a/", "a".repeat(64), "/a//b"])
      await expect(store.begin(bad), bad).rejects.toThrow(code("SPEC_INVALID"));
    await expect(store.begin("/no/such/place/one")).rejects.toThrow(code("HOST_RESOURCE"));
  });

  test("nothing is read that others than root could have put there", async () => {
    const dir = await state();
    const store = new SnapshotStore(dir);
    await using draft = await store.begin(join(dir, "one"));
    const { path } = await draft.commit(manifest);
    const refused = async (): Promise<void> => await expect(store.open(path)).rejects.toThrow(code("SNAPSHOT_INVALID"));
    await chmod(path, 0o750);
    await refused();
    await chmod(path, 0o700);
    await chown(path, 1000, 1000);
    await refused();
    await chown(path, 0, 0);
    await chmod(dir, 0o777);
    await refused();
    await chmod(dir, 0o700);
    await chmod(join(path, MANIFEST), 0o644);
    await refused();
    await chmod(join(path, MANIFEST), 0o600);
    await store.open(path);
    await rename(path, `${path}-moved`);
    await symlink(`${path}-moved`, path);
    await refused();
  });

  test("a file is regular, root's alone and as long as it was", async () => {
    const dir = await state();
    const path = join(dir, "memory");
    await expect(requireFile(path, 5)).rejects.toThrow(/missing|cannot|no snapshot/);
    await writeFile(path, "12345", { mode: 0o600 });
    await requireFile(path, 5);
    await expect(requireFile(path, 6)).rejects.toThrow(code("SNAPSHOT_INVALID"));
    await chmod(path, 0o640);
    await expect(requireFile(path, 5)).rejects.toThrow(code("SNAPSHOT_INVALID"));
    await symlink(path, join(dir, "link"));
    await expect(requireFile(join(dir, "link"), 5)).rejects.toThrow(code("SNAPSHOT_INVALID"));
  });
});
