import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import type { Help } from "../driver.ts";
import { ensureTemplate, templateFiles, type TemplateKey } from "./templates.ts";

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
