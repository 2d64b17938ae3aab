import { mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import {
  kernelIndexPath,
  kernelRelease,
  preferredKernel,
  readKernelIndex,
  recorded,
  recordKernel,
  type KernelRecord,
} from "./kernel-index.ts";

let state: string;
let own: KernelRecord;
let stock: KernelRecord;

beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), "bulkhead-index-"));
  mkdirSync(join(state, "guest"));
  const at = (name: string): string => join(state, "guest", name);
  own = { kind: "own", vmlinux: at("a"), modules: null, release: "6.1.192-bulkhead", hash: "0a".repeat(32) };
  stock = { kind: "stock", vmlinux: at("s"), modules: at("m"), release: "6.1.0-56-cloud-amd64", hash: "0b".repeat(32) };
});

describe("the index of kernels", () => {
  test("is empty before anything was set up", async () => expect(await readKernelIndex(state)).toEqual([]));

  test("has our own kernel first, whichever came first", async () => {
    await recordKernel(state, stock);
    expect(await readKernelIndex(state)).toEqual([stock]);
    await recordKernel(state, own);
    expect(await readKernelIndex(state)).toEqual([own, stock]);
    expect(readdirSync(join(state, "guest"))).toEqual(["index.json"]);
  });

  test("is good wherever its state directory is moved", async () => {
    await recordKernel(state, stock);
    const moved = `${state}-moved`;
    renameSync(state, moved);
    const at = (name: string): string => join(moved, "guest", name);
    expect(await readKernelIndex(moved)).toEqual([{ ...stock, vmlinux: at("s"), modules: at("m") }]);
  });

  test("keeps the latest of a kind", async () => {
    await recordKernel(state, own);
    await recordKernel(state, { ...own, hash: "0c".repeat(32) });
    expect((await readKernelIndex(state)).map(({ hash }) => hash)).toEqual(["0c".repeat(32)]);
  });

  test("has the shape that the launcher's scripts read", async () => {
    await recordKernel(state, own);
    const text = readFileSync(kernelIndexPath(state), "utf8");
    expect(text).toMatch(/^ {4}"kind": "own",$/m);
    expect(text).toMatch(/^ {4}"release": "6\.1\.192-bulkhead",$/m);
  });

  test.each(["{", "{}", "[{}]", '[{"kind":"own","vmlinux":"","modules":null,"release":"6.1","hash":"00000000"}]'])(
    "refuses %s and replaces it",
    async (text) => {
      writeFileSync(kernelIndexPath(state), text);
      await expect(readKernelIndex(state)).rejects.toMatchObject({ code: "HOST_RESOURCE" });
      await recordKernel(state, own);
      expect(await readKernelIndex(state)).toEqual([own]);
    },
  );

  test("prefers our own kernel, unless its file is gone", async () => {
    await recordKernel(state, own);
    await recordKernel(state, stock);
    expect(await preferredKernel(state)).toBeNull();
    writeFileSync(stock.vmlinux, "");
    mkdirSync(stock.modules ?? "");
    expect(await preferredKernel(state)).toEqual(stock);
    writeFileSync(own.vmlinux, "");
    expect(await preferredKernel(state)).toEqual(own);
    writeFileSync(kernelIndexPath(state), "{");
    expect(await preferredKernel(state)).toBeNull();
  });

  test("a kernel whose file is gone does not count as recorded", async () => {
    await recordKernel(state, own);
    expect(await recorded(state, own.vmlinux)).toBeNull();
    writeFileSync(own.vmlinux, "");
    expect(await recorded(state, own.vmlinux)).toEqual(own);
    expect(await recorded(state, stock.vmlinux)).toBeNull();
  });
});

test("a kernel's release is what its banner says", () => {
  expect(kernelRelease(Buffer.from("\0\0Linux version 6.1.0-56-cloud-amd64 (x@y) #1"))).toBe("6.1.0-56-cloud-amd64");
  for (const text of ["", "Linux version ", "Linux version %s (", `Linux version ${"1".repeat(100)} (`]) {
    expect(() => kernelRelease(Buffer.from(text))).toThrow("release");
  }
});
