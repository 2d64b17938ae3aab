import type { Plan, Step } from "@bulkhead/contract";
import { keptFile } from "../layer/paths.ts";
import type { Help, ImageFiles, DriverCapabilities } from "./driver.ts";
import { ensureScratch, scratchPath } from "./scratch.ts";

/** What the writable layer is or begins as, of a plan that has it in a file. */
export function layerFile({ layer, limits }: Plan, stateDir: string): string {
  if (layer.keep !== null) return keptFile(stateDir, layer.keep);
  return scratchPath(stateDir, { bytes: limits.diskBytes, inodes: limits.diskInodes });
}

/** Makes that file where it is not there yet. */
export async function ensureLayer(
  plan: Plan,
  image: ImageFiles,
  writer: DriverCapabilities["layerWriter"],
  { host, signal }: Help,
): Promise<void> {
  const { layer, limits } = plan;
  const size = { bytes: limits.diskBytes, inodes: limits.diskInodes };
  if (layer.backing === "memory") return;
  if (layer.keep === null) return await ensureScratch(host.paths.state, size, signal);
  const { KeptLayers } = await import("../layer/kept.ts");
  const { digest, reference } = image;
  await new KeptLayers(host.paths.state).ensure(
    { name: layer.keep, writer, image: digest, reference, ...size },
    signal,
  );
}

/** Steps that put the writable layer on the directory `target`; what is written goes to `data` in it. */
export function layerSteps(plan: Plan, target: string, stateDir: string, idBase: number): Step[] {
  const { layer, limits } = plan;
  const { diskBytes, diskInodes } = limits;
  const directory: Step = { op: "dir", path: target, mode: 0o755 };
  if (layer.backing === "file") {
    const path = layerFile(plan, stateDir);
    return [directory, { op: "disk", target, path, maxBytes: diskBytes, keep: layer.keep !== null }];
  }
  const owner = { uid: idBase, gid: idBase };
  return [
    directory,
    { op: "tmpfs", target, sizeBytes: diskBytes, inodes: diskInodes, mode: 0o755, ...owner },
    { op: "dir", path: `${target}/data`, mode: 0o755, ...owner },
    { op: "dir", path: `${target}/work`, mode: 0o700, ...owner },
  ];
}
