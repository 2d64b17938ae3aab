import { join } from "node:path";
import { BulkheadError, type Plan, type Secret, type Spec } from "@bulkhead/contract";
import { aborted } from "../channel/errors.ts";
import type { Checkpoint, Driver, ImageFiles } from "../drivers/driver.ts";
import type { HostFacts } from "../host/facts.ts";
import type { CallOptions, Running } from "../sandbox/calls.ts";
import { whole } from "../sandbox/names.ts";
import type { Sandbox } from "../sandbox/sandbox.ts";
import type { ForkOptions, SnapshotInfo } from "../sandbox/saver.ts";
import type { SavedFile } from "./manifest.ts";
import type { SnapshotStore } from "./store.ts";

/** More at once than a host of this size has memory for is a mistake. */
const MAX_FORKS = 64;

/** What a sandbox was made of. */
export interface Origin {
  readonly driver: Driver;
  readonly plan: Plan;
  readonly image: ImageFiles;
  /** As it was carried out: every limit is definite. */
  readonly spec: Spec;
  /** What the edge adds to requests: in this process's memory alone. */
  readonly secrets: readonly Secret[];
  /** The given seccomp profile in the kernel's form; empty without one. */
  readonly filter: Uint8Array;
}

/** What saving needs of an engine. */
export interface Workshop {
  readonly host: HostFacts;
  readonly store: SnapshotStore;
  /** @param driver starts it in place of the origin's own, from saved state */
  readonly start: (origin: Origin, driver: Driver, options: { readonly signal?: AbortSignal }) => Promise<Sandbox>;
}

/** @throws BulkheadError NOT_SUPPORTED */
export function requireCheckpoint({ driver }: Pick<Origin, "driver">): Checkpoint {
  if (driver.checkpoint !== undefined) return driver.checkpoint;
  throw new BulkheadError("NOT_SUPPORTED", {
    what: `a sandbox of ${driver.name} cannot be saved, forked or restored`,
    why: "here its memory cannot be written to disk and go on from there",
    next: "use a microvm with templates on, or pause it: a paused sandbox keeps its memory and uses no processor",
  });
}

/** A host directory goes on changing while the memory that knows it stands still. */
function refuseMounts({ mounts }: Plan): void {
  const [first] = mounts;
  if (first === undefined) return;
  throw new BulkheadError("NOT_SUPPORTED", {
    what: "a sandbox with mounts or volumes cannot be saved or forked",
    why: `what is in ${first.volume?.name ?? first.source} is not the sandbox's, and may have changed when it goes on`,
    next: "start it without them and copy the files in",
  });
}

/** Its copies could not all go on with one disk, and it goes on changing that. */
function refuseKept({ layer }: Plan): void {
  if (layer.keep === null) return;
  throw new BulkheadError("NOT_SUPPORTED", {
    what: `a sandbox whose layer is kept as ${layer.keep} cannot be saved or forked`,
    why: "its disk is the one that is kept, and a copy would go on with it as it was",
    next: "start it without keep",
  });
}

/** What goes on would hold connections that nobody outside knows of. */
function refuseNetwork({ network }: Plan): void {
  if (network === "none") return;
  throw new BulkheadError("NOT_SUPPORTED", {
    what: "a sandbox with a network cannot be saved or forked",
    why: "its connections end on this host, and a copy could not go on with them",
    next: "start it with network none, or end it and start another",
  });
}

/** Asked twice: it may change while something is waited for. */
function isAborted(signal: AbortSignal | undefined): boolean {
  return signal?.aborted === true;
}

async function save(origin: Origin, running: Running, dir: string, { signal }: CallOptions): Promise<Checkpoint> {
  const checkpoint = requireCheckpoint(origin);
  refuseMounts(origin.plan);
  refuseNetwork(origin.plan);
  refuseKept(origin.plan);
  if (isAborted(signal)) throw aborted("saving the sandbox", signal);
  try {
    await checkpoint.save(running, dir, signal);
  } catch (error) {
    if (error instanceof BulkheadError && error.code === "SANDBOX_GONE") throw error;
    throw isAborted(signal) ? aborted("saving the sandbox", signal) : error;
  }
  return checkpoint;
}

export async function snapshot(
  { host, store }: Workshop,
  origin: Origin,
  running: Running,
  where: string,
  options: CallOptions,
): Promise<SnapshotInfo> {
  requireCheckpoint(origin);
  await using draft = await store.begin(where);
  const checkpoint = await save(origin, running, draft.dir, options);
  const { driver, plan, image, spec } = origin;
  const names = Object.keys(checkpoint.files(plan));
  // The sandbox runs again: nothing of this is in its way.
  const files = await Promise.all(
    names.map(async (name): Promise<[string, SavedFile]> => [name, await running.keeper.digest(join(draft.dir, name))]),
  );
  return await draft.commit({
    createdMs: Date.now(),
    level: driver.level,
    driver: driver.name,
    spec: { ...spec, image: image.digest },
    binding: await checkpoint.binding(plan, image, host),
    files: Object.fromEntries(files),
  });
}

export async function fork(
  { store, start }: Workshop,
  origin: Origin,
  running: Running,
  count: number,
  options: ForkOptions,
): Promise<Sandbox[]> {
  const { signal } = options;
  whole(count, "count", 1, MAX_FORKS);
  requireCheckpoint(origin);
  await using draft = await store.begin(null);
  const checkpoint = await save(origin, running, draft.dir, options);
  const { plan, spec } = origin;
  const one = async (index: number): Promise<Sandbox> => {
    const hostname = options.hostname?.(index) ?? plan.process.hostname;
    const named = {
      ...origin,
      spec: { ...spec, hostname },
      plan: { ...plan, process: { ...plan.process, hostname } },
    };
    return await start(named, checkpoint.from(draft.dir, { hostname }), signal === undefined ? {} : { signal });
  };
  const made = await Promise.allSettled(Array.from({ length: count }, (_, index) => one(index)));
  const failed = made.find((result) => result.status === "rejected");
  const boxes = made.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  if (failed === undefined) return boxes;
  await Promise.allSettled(boxes.map((box) => box.kill()));
  throw failed.reason;
}
