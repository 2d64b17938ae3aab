import { mkdir, mkdtemp, readdir, rm, stat, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import type { Help } from "../driver.ts";
import { lockFile } from "../../system/file-lock.ts";
import { ensureTemplate, type Root, templateFiles, type TemplateKey, wishForRooted } from "./templates.ts";

const key: TemplateKey = {
  bootId: "boot",
  qemu: "q",
  kernel: "k",
  agent: "a",
  cpuModel: "c",
  accelerator: { kind: "kvm" },
  argv: "[]",
  memoryMib: 256,
  cpus: 1,
  sharing: false,
  root: null,
};
const LONG_AGO = new Date(Date.now() - 3_600_000);

async function state(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "templates-"));
  onTestFinished(() => rm(dir, { recursive: true }));
  return dir;
}

async function put(dir: string, one: TemplateKey, at?: Date): Promise<string> {
  const target = dirname(templateFiles(dir, one).memory);
  await mkdir(target, { recursive: true });
  await writeFile(join(target, "key.json"), JSON.stringify(one));
  if (at !== undefined) await utimes(target, at, at);
  return target;
}

/** No guest boots: it is not there. */
const ensure = (dir: string, one: TemplateKey): Promise<void> =>
  ensureTemplate(dir, one, "/no/such/qemu", { kind: "own", kernel: "/k", initramfs: "/i" }, {} as Help);

test("everything it is bound to is part of its name", async () => {
  const changes: Partial<TemplateKey>[] = Object.keys(key).map((name) => ({ [name]: "other" }));
  const names = [{}, ...changes].map((change) => templateFiles("/s", { ...key, ...change }).memory);
  expect(new Set(names).size).toBe(Object.keys(key).length + 1);
});

test("one that is there is used without a boot", async () => {
  const dir = await state();
  await put(dir, key);
  await ensure(dir, key);
});

test("a boot that fails leaves nothing, and takes away what is half made or bound to something else", async () => {
  const dir = await state();
  const sameMachine = await put(dir, { ...key, memoryMib: 512 }, LONG_AGO);
  const stillUsed = await put(dir, { ...key, agent: "newer" });
  await put(dir, { ...key, kernel: "older" }, LONG_AGO);
  await mkdir(join(dir, "templates", ".making-dead"));
  await expect(ensure(dir, key)).rejects.toMatchObject({ code: "RUNTIME_FAILED" });
  const left = (await readdir(join(dir, "templates"))).filter((name) => name !== "lock");
  expect(left.toSorted()).toEqual(
    [sameMachine, stillUsed].map((path) => path.slice(path.lastIndexOf("/") + 1)).toSorted(),
  );
});

const root: Root = {
  image: "i",
  imageFile: "f",
  scratch: "s",
  pids: 1,
  memoryBytes: 1,
  resolver: "",
};
const names = async (dir: string): Promise<string[]> =>
  (await readdir(join(dir, "templates"))).filter((name) => name !== "lock");

test("what a guest has mounted and been limited to is part of its template's name", async () => {
  const changes: Partial<Root>[] = Object.keys(root).map((name) => ({ [name]: "other" }));
  const paths = [{}, ...changes].map((change) => templateFiles("/s", { ...key, root: { ...root, ...change } }).memory);
  expect(new Set([...paths, templateFiles("/s", key).memory]).size).toBe(Object.keys(root).length + 2);
});

test("one with a root is made by the second start that wishes for it, and used by the third", async () => {
  const dir = await state();
  const rooted = { ...key, root };
  const target = dirname(templateFiles(dir, rooted).memory);
  const saved: string[] = [];
  const save = async (into: string): Promise<void> => {
    expect((await stat(into)).mode & 0o777).toBe(0o700);
    await writeFile(join(into, "memory"), "m");
    saved.push(into);
  };
  expect(await wishForRooted(dir, rooted, save)).toBeNull();
  expect(saved).toEqual([]);
  expect(await wishForRooted(dir, rooted, save)).toBe(target);
  expect(await wishForRooted(dir, rooted, save)).toBe(target);
  expect(saved.length).toBe(1);
  expect(await names(dir)).toEqual([basename(target)]);
  expect((await readdir(target)).toSorted()).toEqual(["key.json", "memory"]);
});

test("one that cannot be saved leaves nothing, and who comes while another is made goes without", async () => {
  const dir = await state();
  const rooted = { ...key, root };
  const fails = async (): Promise<void> => {
    throw new Error("no room");
  };
  expect(await wishForRooted(dir, rooted, fails)).toBeNull();
  await expect(wishForRooted(dir, rooted, fails)).rejects.toThrow("no room");
  expect(await names(dir)).toEqual([]);
  expect(await wishForRooted(dir, rooted, fails)).toBeNull();
  await using _lock = await lockFile(join(dir, "templates", "lock"));
  expect(await wishForRooted(dir, rooted, fails)).toBeNull();
});
