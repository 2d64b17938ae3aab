import { setTimeout as sleep } from "node:timers/promises";
import type { Plan } from "@bulkhead/contract";
import { HostGone, type Configure } from "../../channel/wire.gen.ts";
import type { Inside } from "../../sandbox/calls.ts";
import type { Driver, Help, ImageFiles } from "../driver.ts";
import { erofsRecord } from "../../guest/erofs.ts";
import { prepareRoot } from "../../guest/prepare.ts";
import { identifyGuest } from "../../guest/refresh.ts";
import { DEFAULT_HOSTNAME } from "../../policy/defaults.ts";
import { scratchPath } from "../scratch.ts";
import { saveMachine } from "./checkpoint.ts";
import { identityOf, keyOf, sizeOf } from "./guest.ts";
import type { Survey } from "./survey.ts";
import { type Root, wishForRooted } from "./templates.ts";

/** A guest that wakes under emulation on a busy host takes seconds. */
const ANSWER_TIMEOUT_MS = 60_000;
const SETTLE_MS = 200;

/** Nothing of a request's own: each clone is told that when it has woken. */
const CONFIGURE: Configure = {
  hostGone: HostGone.exit,
  defaultUser: "",
  allowSetuid: false,
  env: [],
  hostname: "",
  elevate: false,
  openFiles: 0n,
  filter: new Uint8Array(),
};

/**
 * A template with this plan's root, or null where there is none: what is mounted besides or kept is one sandbox's own. A
 * start does without one that cannot be made.
 *
 * @param driver starts a guest that knows no image
 * @throws BulkheadError ABORTED
 */
export async function rootedTemplate(
  driver: Driver,
  survey: Survey,
  made: Plan,
  image: ImageFiles,
  help: Help,
): Promise<string | null> {
  const imageFile = erofsRecord(image);
  if (made.mounts.length > 0 || made.layer.keep !== null || imageFile === null) return null;
  const { pids, memoryBytes, resolver } = identityOf(made);
  const root: Root = {
    image: image.digest,
    imageFile,
    scratch: scratchPath("", sizeOf(made).scratch),
    pids,
    memoryBytes,
    resolver,
  };
  const { host, signal, onProgress } = help;
  try {
    return await wishForRooted(
      host.paths.state,
      { ...keyOf(made, host, survey), root },
      async (dir) => {
        onProgress?.("making the template that further microVMs of this image are cloned from");
        await saveRooted(driver, made, image, help, dir);
      },
      signal,
    );
  } catch (error) {
    if (signal?.aborted === true) throw error;
    onProgress?.(`microVMs of this image start more slowly: ${error instanceof Error ? error.message : String(error)}`);
    return null;
  }
}

/** Makes a guest that woke with its root another than all others that did. */
export async function refreshRooted({ process }: Plan, inside: Inside, signal?: AbortSignal): Promise<void> {
  const { hostname } = process;
  await identifyGuest(inside, hostname === DEFAULT_HOSTNAME ? "" : hostname, { signal });
}

/**
 * Wakes a guest in its jail, has it mount the image and an empty writable layer, runs nothing in it, and saves it into `dir`.
 * What all its clones would do again is done then: most of a start under emulation is code that runs for the first time.
 *
 * @throws BulkheadError as a start and a snapshot do; nothing runs any more then
 */
async function saveRooted(
  driver: Driver,
  plan: Plan,
  image: ImageFiles,
  { host, keeper: startKeeper, signal }: Help,
  dir: string,
): Promise<void> {
  const [{ startSandbox }, { Channel }] = await Promise.all([
    import("../../sandbox/start.ts"),
    import("../../channel/channel.ts"),
  ]);
  const keeper = await startKeeper();
  const stop = signal === undefined ? {} : { signal };
  await using started = await startSandbox({ driver, plan, keeper, image, host, ...stop });
  const { readable, writable } = started.channel;
  const attach = { readable, writable, fresh: true, timeoutMs: ANSWER_TIMEOUT_MS, configure: CONFIGURE, ...stop };
  const channel = await Channel.attach(attach);
  const inside: Inside = { channel, explain: async (error) => error };
  await prepareRoot(inside, { ...identityOf(plan), hostname: DEFAULT_HOSTNAME }, { signal });
  // What the kernel does later of what it was asked for is done then, and not in every clone; the agent is not idle yet.
  await sleep(SETTLE_MS, undefined, stop);
  await saveMachine({ instance: started.instance, keeper, inside }, dir, signal);
}
