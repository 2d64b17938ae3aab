import { join } from "node:path";
import { BulkheadError, type Level, parseSpec, satisfies, type Spec, type Trust } from "@bulkhead/contract";
import type { Driver } from "../drivers/driver.ts";
import { resolveLevel, type Candidate } from "../policy/resolve.ts";
import type { Sandbox } from "../sandbox/sandbox.ts";
import type { Keeper } from "../system/keeper.ts";
import type { Manifest } from "./manifest.ts";
import { type Origin, requireCheckpoint, type Workshop } from "./saver.ts";
import { requireFile } from "./store.ts";

export interface RestoreOptions {
  readonly signal?: AbortSignal;
  /** Default: that of the sandbox that was saved. */
  readonly hostname?: string;
  /** Nothing weaker is restored; what the saved sandbox was asked for holds besides. */
  readonly atLeast?: Level;
  readonly trust?: Trust;
  readonly hardware?: boolean;
  /** Told what takes long, one line each, for people. */
  readonly onProgress?: (text: string) => void;
}

export interface Restorer extends Workshop {
  readonly candidates: readonly Candidate<Driver>[];
  readonly keeper: () => Promise<Keeper>;
  /** Applies policy and makes the plan, as for a new sandbox. */
  readonly prepare: (spec: Spec) => Promise<Origin>;
}

/** What the caller asks for now; what was asked for then is in the spec. */
function checkFloor(path: string, { level }: Manifest, options: RestoreOptions, by: Restorer): void {
  const { atLeast, trust, hardware = false } = options;
  if (atLeast !== undefined && !satisfies(level, atLeast)) {
    throw new BulkheadError("POLICY_REFUSED", {
      what: `snapshot ${path} is refused: at least ${atLeast} was asked for`,
      why: `it is of a sandbox at level ${level}`,
      next: `start a new one at ${atLeast}`,
      details: { level, atLeast },
    });
  }
  resolveLevel({ isolation: level, trust, hardware }, by.candidates);
}

/** The first thing that differs, in words. @throws BulkheadError SNAPSHOT_MISMATCH */
function checkBinding(path: string, was: Manifest["binding"], is: Manifest["binding"]): void {
  const name = [...new Set([...Object.keys(was), ...Object.keys(is)])].find((one) => was[one] !== is[one]);
  if (name === undefined) return;
  const [then, now] = [was[name] ?? "nothing", is[name] ?? "nothing"];
  throw new BulkheadError("SNAPSHOT_MISMATCH", {
    what: `snapshot ${path} cannot go on here: ${name} differs`,
    why: `it was saved with ${then}, and here is ${now}`,
    details: { name, then, now },
  });
}

/** @throws BulkheadError SNAPSHOT_INVALID */
async function checkFiles(dir: string, { files }: Manifest, most: Readonly<Record<string, number>>, keeper: Keeper) {
  const refuse = (why: string): never => {
    throw new BulkheadError("SNAPSHOT_INVALID", { what: `snapshot ${dir} is damaged`, why });
  };
  const check = async ([name, max]: [string, number]): Promise<void> => {
    const file = files[name];
    if (file === undefined || file.bytes > max) return refuse(`${name} is not among its files, or is too large`);
    const path = join(dir, name);
    await requireFile(path, file.bytes);
    const { digest } = await keeper.digest(path);
    if (digest !== file.digest) refuse(`the contents of ${path} are not what was written`);
  };
  await Promise.all(Object.entries(most).map(check));
}

/**
 * Starts a sandbox that goes on from a snapshot. Policy is applied and the plan made as for a new one; everything that the
 * saved memory rests on has to be what it was.
 */
export async function restoreSnapshot(by: Restorer, where: string, options: RestoreOptions): Promise<Sandbox> {
  const { dir, manifest } = await by.store.open(where);
  checkFloor(dir, manifest, options, by);
  const { hostname } = options;
  const asked = { ...manifest.spec, isolation: manifest.level, ...(hostname !== undefined && { hostname }) };
  const origin = await by.prepare(parseSpec(asked));
  const { driver, plan, image } = origin;
  checkBinding(dir, { driver: manifest.driver }, { driver: driver.name });
  const checkpoint = requireCheckpoint(origin);
  const starter = checkpoint.from(dir, { hostname: plan.process.hostname });
  const { onProgress, signal } = options;
  const help = { host: by.host, keeper: by.keeper, ...(onProgress && { onProgress }), ...(signal && { signal }) };
  await starter.provide?.(plan, image, help);
  checkBinding(dir, manifest.binding, await checkpoint.binding(plan, image, by.host));
  await checkFiles(dir, manifest, checkpoint.files(plan), await by.keeper());
  return await by.start(origin, starter, options);
}
