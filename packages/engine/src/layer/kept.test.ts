import { mkdtemp, mkdir, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { expect, onTestFinished, test } from "vitest";
import { explainBusy, KeptLayers, type KeptLayer, requireBinding, requireRoom, requireSizes } from "./kept.ts";
import { keptFile } from "./paths.ts";

const MIB = 2 ** 20;
const WORK: KeptLayer = {
  name: "work",
  writer: "host",
  image: `sha256:${"a".repeat(64)}`,
  reference: "base",
  bytes: 64 * MIB,
  inodes: 8192,
};

async function stateDirectory(): Promise<string> {
  const state = await mkdtemp(join(tmpdir(), "bulkhead-kept-"));
  onTestFinished(() => rm(state, { recursive: true, force: true }));
  return state;
}

const coded = (code: string, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) });

test("a layer is made once, whole, of root's alone, and listed with the room it takes", async () => {
  const state = await stateDirectory();
  const store = new KeptLayers(state);
  expect(await store.list()).toEqual([]);
  await Promise.all([store.ensure(WORK), store.ensure(WORK)]);
  const file = await stat(keptFile(state, "work"));
  expect([file.size, file.mode & 0o777, file.nlink]).toEqual([64 * MIB, 0o600, 1]);
  const [listed, ...others] = await store.list();
  expect(others).toEqual([]);
  expect(listed).toMatchObject(WORK);
  expect(listed?.usedBytes).toBeLessThan(16 * MIB);
  expect(await readdir(join(state, "kept", "work"))).toEqual(["layer.ext4", "layer.json"]);
  const at = file.mtimeMs;
  await store.ensure(WORK);
  expect((await stat(keptFile(state, "work"))).mtimeMs).toBe(at);
});

test("another image, another kernel or another size is refused, by what differs", async () => {
  const store = new KeptLayers(await stateDirectory());
  await store.ensure(WORK);
  const other = { ...WORK, image: `sha256:${"b".repeat(64)}` };
  await expect(store.ensure(other)).rejects.toEqual(coded("KEPT_MISMATCH", /work/));
  expect(() => requireBinding(WORK, { ...WORK, writer: "guest" })).toThrow(coded("KEPT_MISMATCH", /work/));
  const guests = { ...WORK, writer: "guest" } as const;
  expect(() => requireBinding(guests, WORK)).toThrow(expect.objectContaining({ why: expect.stringMatching(/guest/) }));
  expect(() => requireSizes(WORK, { diskBytes: 32 * MIB })).toThrow(coded("KEPT_MISMATCH", /work/));
  expect(() => requireSizes(WORK, { diskBytes: 64 * MIB })).not.toThrow();
  expect(() => requireRoom(8 * MIB)).toThrow(coded("LIMIT_UNSUPPORTED", /8/));
});

test("what somebody has is not removed; afterwards it is, and with it what was left half-made", async () => {
  const state = await stateDirectory();
  const store = new KeptLayers(state);
  await store.ensure(WORK);
  await mkdir(join(state, "kept", ".new-0000"));
  {
    await using _used = await store.use("work");
    await expect(store.remove("work")).rejects.toEqual(coded("KEPT_IN_USE", /work/));
    await expect(store.use("work")).rejects.toEqual(coded("KEPT_IN_USE", /work/));
  }
  await store.remove("work");
  expect(await readdir(join(state, "kept"))).toEqual([".lock"]);
  await expect(store.remove("work")).rejects.toEqual(coded("KEPT_NOT_FOUND", /work/));
  await expect(store.get("../work")).rejects.toEqual(coded("KEPT_NOT_FOUND", /work/));
});

test("a record that cannot be read is told by name, and can be removed", async () => {
  const state = await stateDirectory();
  const store = new KeptLayers(state);
  await store.ensure(WORK);
  for (const text of ["", "{}", '{"version":1,"writer":"nobody"}', `"${"x".repeat(100_000)}"`]) {
    await writeFile(join(state, "kept", "work", "layer.json"), text);
    await expect(store.find("work")).rejects.toEqual(coded("KEPT_INVALID", /work/));
  }
  expect(await store.list()).toEqual([]);
  await store.remove("work");
});

test("the keeper's word for a layer in use is told as that, and nothing else is", () => {
  const failed = (errno: string, what: string) => new BulkheadError("RUNTIME_FAILED", { what, details: { errno } });
  expect(explainBusy(failed("EBUSY", "step 9 (disk) failed: /s/kept/work/layer.ext4: busy"), "work")).toEqual(
    coded("KEPT_IN_USE", /work/),
  );
  const other = failed("EBUSY", "step 9 (disk) failed: /dev/loop0: busy");
  expect(explainBusy(other, "work")).toBe(other);
});
