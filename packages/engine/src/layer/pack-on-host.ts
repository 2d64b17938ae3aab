import { BulkheadError } from "@bulkhead/contract";
import { configOf } from "../host/index.ts";
import { Keeper } from "../system/keeper.ts";
import { explainBusy } from "./kept.ts";
import { PACK_TIMEOUT_MS, packFailure, type Packing } from "./packing.ts";
import { keptFile } from "./paths.ts";

/** Only a program's last words on standard error come back with its failure. */
const SAY_WHY = 'exec "$@" >&2';

function explainPacking(error: unknown, name: string): unknown {
  const said = error instanceof BulkheadError ? error.details["stderr"] : undefined;
  return (typeof said === "string" ? packFailure(said, name) : null) ?? error;
}

/**
 * The keeper mounts the layer where nobody else sees it, and has the packer read it there.
 * @throws BulkheadError KEPT_IN_USE, IMAGE_REFUSED, HOST_RESOURCE, RUNTIME_FAILED, KEEPER_FAILED, ABORTED
 */
export async function packOnHost({ kept, archive, directories, program, signal }: Packing): Promise<void> {
  const { name, bytes } = kept;
  const { keeper: path, run: runDir, state } = configOf(directories);
  await using keeper = await Keeper.start({ path, runDir, ...(signal !== undefined && { signal }) });
  const instance = await keeper.reserve();
  const disk = `${instance.dir}/disk`;
  const words = ["pack", "--from", `${disk}/data`, "--id-base", `${instance.idBase}`, "--out", archive];
  const callOff = (): void => void keeper.release(instance).catch(() => undefined);
  signal?.addEventListener("abort", callOff, { once: true });
  try {
    await keeper.acquire(instance, [
      { op: "dir", path: disk, mode: 0o700 },
      { op: "disk", target: disk, path: keptFile(state, name), maxBytes: bytes, keep: true },
      { op: "run", argv: ["/bin/sh", "-c", SAY_WHY, "sh", program, ...words], timeoutMs: PACK_TIMEOUT_MS },
    ]);
    await keeper.release(instance);
  } catch (cause) {
    if (signal?.aborted === true) throw new BulkheadError("ABORTED", { what: "the commit was called off", cause });
    throw explainPacking(explainBusy(cause, name), name);
  } finally {
    signal?.removeEventListener("abort", callOff);
  }
}
