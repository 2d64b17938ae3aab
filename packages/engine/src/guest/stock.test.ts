import { mkdtempSync, readFileSync, readdirSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { expect, test } from "vitest";
import { readKernelIndex } from "./kernel-index.ts";
import { readModules } from "./modules.ts";
import { takeStockKernel, type StockPhase } from "./stock.ts";

const TIMEOUT_MS = 180_000;

/** True when it was apt that failed: without a mirror there is no package to take. */
function isAptFailure(error: unknown): boolean {
  if (!(error instanceof BulkheadError)) return false;
  return error.code === "HOST_UNSUPPORTED" || `${error.message} ${error.why}`.includes("apt-get");
}

test("takes Debian's cloud kernel and the modules a guest needs, once", { timeout: TIMEOUT_MS }, async (context) => {
  const stateDir = mkdtempSync(join(tmpdir(), "bulkhead-stock-"));
  const phases: StockPhase[] = [];
  let kernel: Awaited<ReturnType<typeof takeStockKernel>>;
  try {
    kernel = await takeStockKernel({ stateDir, onPhase: (phase) => phases.push(phase) });
  } catch (error) {
    if (!isAptFailure(error)) throw error;
    console.warn(`NOT TESTED: Debian's stock kernel cannot be had here: ${String(error)}`);
    return context.skip("apt gives no linux-image-cloud-amd64");
  }
  expect(phases).toEqual(["download", "unpack", "extract", "done"]);
  expect(readFileSync(kernel.vmlinux).toString("latin1", 0, 4)).toBe("\x7fELF");
  expect(kernel.release).toMatch(/^\d+\.\d+\..*-cloud-amd64$/);
  expect(readdirSync(join(stateDir, "guest")).toSorted()).toEqual(["index.json", "lock", `stock-${kernel.hash}`]);

  const { taken, ...record } = kernel;
  expect(taken).toBe(true);
  expect(await readKernelIndex(stateDir)).toEqual([record]);
  const names = (await readModules(kernel.modules ?? "")).map(({ name }) => name);
  expect(names).toEqual(expect.arrayContaining(["virtio_mmio", "virtio_console", "virtio_blk", "erofs", "overlay"]));
  expect(names.indexOf("virtio_ring")).toBeLessThan(names.indexOf("virtio_mmio"));

  const before = statSync(kernel.vmlinux).mtimeMs;
  expect(await takeStockKernel({ stateDir })).toEqual({ ...record, taken: false });
  expect(statSync(kernel.vmlinux).mtimeMs).toBe(before);
});
