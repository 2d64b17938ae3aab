import { closeSync, constants, openSync } from "node:fs";
import { Socket } from "node:net";
import type { Readable, Writable } from "node:stream";
import { BulkheadError, type Plan } from "@bulkhead/contract";
import type { Driver, ImageFiles, Instance } from "../drivers/driver.ts";
import type { WayOut } from "../egress/way-out.ts";
import type { HostFacts } from "../host/facts.ts";
import type { Keeper, KeeperEnded, KeeperLimit, Throttled } from "../system/keeper.ts";

/** Longer than the slowest runtime's own limit in its `run` step, so that its better message is the one shown. */
const START_TIMEOUT_MS = 60_000;

export interface StartOptions {
  readonly driver: Driver;
  readonly plan: Plan;
  readonly keeper: Keeper;
  readonly image: ImageFiles;
  readonly host: HostFacts;
  /** There is one when the plan has a network. */
  readonly wayOut?: WayOut;
  readonly signal?: AbortSignal;
  /** Told what takes long, one line each, for people. */
  readonly onProgress?: (text: string) => void;
  /** Called once the keeper is at work: what is done then costs no time of its own. */
  readonly whileStarting?: () => void;
}

/** The raw byte streams to and from the agent. Destroying both tells the agent that the host is gone. */
export interface RawChannel {
  readonly readable: Readable;
  readonly writable: Writable;
}

export interface StartedSandbox extends AsyncDisposable {
  readonly instance: Instance;
  readonly channel: RawChannel;
  /** When each of the driver's steps was done, µs from the first one's start. */
  readonly doneAtUs: readonly number[];
  /** How the sandbox's first process ended, when it ended by itself. Never rejects. */
  readonly ended: Promise<KeeperEnded>;
  /** Limits that the host saw reached, from now on. */
  onLimit(listener: (news: KeeperLimit) => void): void;
  /** Has the host count now; the listener has been told when this resolves, with null for a sandbox that is gone. Never rejects. */
  look(): Promise<Throttled | null>;
  /** Kills what runs and undoes everything; may be called again. */
  release(): Promise<void>;
}

/** Non-blocking ends of our own: the open file descriptions are not shared with the agent's. */
function openChannel(instance: Instance): RawChannel {
  const output = openSync(`${instance.dir}/out`, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const input = openSync(`${instance.dir}/in`, constants.O_WRONLY | constants.O_NONBLOCK);
    return {
      readable: new Socket({ fd: output, readable: true, writable: false }),
      writable: new Socket({ fd: input, readable: false, writable: true }),
    };
  } catch (error) {
    closeSync(output);
    throw error;
  }
}

function stopped(signal: AbortSignal, caller: AbortSignal | undefined, driver: Driver): BulkheadError {
  if (signal.reason instanceof BulkheadError) return signal.reason;
  const byCaller = caller?.aborted === true;
  return new BulkheadError(byCaller ? "ABORTED" : "TIMEOUT", {
    what: byCaller ? "the start was called off" : `${driver.name} did not start within ${START_TIMEOUT_MS / 1000} s`,
    ...(byCaller ? {} : { next: "look at the host's load, then try again" }),
    cause: signal.reason,
  });
}

/**
 * Makes the sandbox of a plan and gives the streams to its agent, on which nothing has been said yet.
 *
 * @throws BulkheadError RUNTIME_FAILED, HOST_RESOURCE, KEEPER_FAILED, TIMEOUT (60 s), ABORTED; nothing is left then.
 */
export async function startSandbox(options: StartOptions): Promise<StartedSandbox> {
  const { driver, plan, keeper, image, host } = options;
  const { onProgress } = options;
  const help = { host, keeper: async () => keeper, ...(onProgress && { onProgress }) };
  // Has limits of its own: what is made at first use may take long.
  await driver.provide?.(plan, image, options.signal === undefined ? help : { ...help, signal: options.signal });
  const timeout = AbortSignal.timeout(START_TIMEOUT_MS);
  const signal = options.signal === undefined ? timeout : AbortSignal.any([options.signal, timeout]);
  if (signal.aborted) throw stopped(signal, options.signal, driver);

  await using stack = new AsyncDisposableStack();
  const instance = await keeper.reserve();
  let released: Promise<void> | undefined;
  const release = (): Promise<void> => (released ??= keeper.release(instance));
  // A failed acquire has undone everything itself; then there is nothing to release, which is no second failure.
  stack.defer(() => release().catch(() => undefined));
  const callOff = (): void => void release().catch(() => undefined);
  signal.addEventListener("abort", callOff, { once: true });
  stack.defer(() => signal.removeEventListener("abort", callOff));

  const ended = new Promise<KeeperEnded>((resolve) => keeper.onEnded(instance, resolve));
  let doneAtUs: readonly number[];
  try {
    const acquired = keeper.acquire(instance, driver.steps(plan, instance, image, host));
    options.whileStarting?.();
    doneAtUs = await acquired;
    signal.throwIfAborted();
  } catch (error) {
    if (signal.aborted) throw stopped(signal, options.signal, driver);
    throw plan.layer.keep === null ? error : (await import("../layer/kept.ts")).explainBusy(error, plan.layer.keep);
  }
  const channel = openChannel(instance);
  stack.defer(() => void (channel.readable.destroy(), channel.writable.destroy()));
  // Not waited for: it fails only with the keeper, which ends the sandbox and says so through `ended`.
  keeper.settled(instance).catch(() => undefined);
  signal.removeEventListener("abort", callOff);

  // From here on the sandbox is the caller's, who ends it with release().
  stack.move();
  const end = (): Promise<void> => {
    channel.readable.destroy();
    channel.writable.destroy();
    return release();
  };
  return {
    instance,
    channel,
    doneAtUs,
    ended,
    onLimit: (listener) => keeper.onLimit(instance, listener),
    // A sandbox that is gone has told everything before its end.
    look: () => keeper.look(instance).catch(() => null),
    release: end,
    [Symbol.asyncDispose]: end,
  };
}
