import { BulkheadError, type Plan } from "@bulkhead/contract";
import { Channel } from "../channel/channel.ts";
import { HostGone, type Configure } from "../channel/wire.gen.ts";
import type { Driver } from "../drivers/driver.ts";
import type { KeeperEnded } from "../system/keeper.ts";
import { call, type Inside } from "./calls.ts";
import { environmentBytes } from "./exec-request.ts";
import { SandboxEvents } from "./events.ts";
import { Files } from "./files.ts";
import { hitOfAgent, hitsOfKeeper } from "./limit-events.ts";
import { quote } from "./names.ts";
import type { Saver } from "./saver.ts";
import { Sandbox, type SandboxEnd } from "./sandbox.ts";
import { signalName } from "./signals.ts";
import type { StartedSandbox, StartOptions } from "./start.ts";

/** The keeper's news and the channel's end of file come by different ways; after this long neither waits for the other. */
const LAST_WORDS_MS = 500;
/** An agent answers in milliseconds, one whose kernel boots first under emulation on a host with ten times its load in 10 s. */
const ANSWER_TIMEOUT_MS = 60_000;
const SHOWN_LOG_CHARS = 300;
const DIRECTORY_MODE = 0o755;
/** By number: an image need not have a user database. */
const ROOT = "0";

export interface AttachOptions extends Pick<StartOptions, "plan" | "driver" | "keeper" | "wayOut" | "signal"> {
  /** Disposed of when the sandbox is no more. */
  readonly held: AsyncDisposable;
  /** Absent where nobody can make another one of it. */
  readonly saver?: Saver;
  readonly name?: string | undefined;
  /** Put on every program that is started, in the kernel's form. Default: none. */
  readonly filter?: Uint8Array;
}

function configureFor(plan: Plan, driver: Driver, filter: Uint8Array): Configure {
  return {
    hostGone: HostGone.exit,
    defaultUser: plan.process.user,
    allowSetuid: !plan.boundary.noNewPrivileges,
    env: environmentBytes(plan.process.env),
    hostname: plan.process.hostname,
    elevate: driver.capabilities.elevation === "agent",
    openFiles: BigInt(plan.limits.openFiles),
    filter,
  };
}

function endOf(ended: KeeperEnded, driver: Driver): SandboxEnd {
  const { code, signal, oomKilled } = ended;
  const end = { code, signal: signal === null ? null : signalName(signal), oomKilled };
  return { ...end, reason: driver.explainEnd?.(ended) ?? null };
}

function within<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  const late = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => late.resolve(undefined), ms);
  return Promise.race([promise, late.promise]).finally(() => clearTimeout(timer));
}

/** An agent that never answered: what it wrote before it ended says more than that it is gone. */
async function explainAttach(error: unknown, started: StartedSandbox, driver: string): Promise<unknown> {
  if (!(error instanceof BulkheadError) || error.code === "ABORTED") return error;
  const ended = await within(started.ended, LAST_WORDS_MS);
  if (ended === undefined) return error;
  const log = ended.log.trim().split("\n").at(-1)?.slice(0, SHOWN_LOG_CHARS) ?? "";
  const how = ended.signal === null ? `exit code ${ended.code}` : signalName(ended.signal);
  return new BulkheadError("RUNTIME_FAILED", {
    what: `${driver} started a sandbox whose agent ended at once`,
    why: log === "" ? `it ended with ${how} and said nothing` : `it ended with ${how}: ${log}`,
    details: { ...ended },
    cause: error,
  });
}

/** Undone once, whoever comes first: the caller, the sandbox's own end or a broken protocol. */
function releaser(
  started: StartedSandbox,
  held: AsyncDisposable,
): { readonly release: () => Promise<void>; readonly released: Promise<void> } {
  const released = Promise.withResolvers<void>();
  let running: Promise<void> | undefined;
  const act = async (): Promise<void> => {
    try {
      await started.release();
    } finally {
      await held[Symbol.asyncDispose]();
      released.resolve();
    }
  };
  return { release: () => (running ??= act()), released: released.promise };
}

/** Before any program: none is to find its first connection unanswered. */
async function openWayOut(inside: Inside, { wayOut, signal }: AttachOptions): Promise<void> {
  if (wayOut === undefined) throw new BulkheadError("INTERNAL", { what: "nobody answers for the sandbox's network" });
  const { openEgress } = await import("../egress/session.ts");
  await openEgress(inside, wayOut.handler, { signal });
  await wayOut.prepare?.(new Files(inside), signal);
}

/** By root inside, through whatever links the image has: what the image promises to its program is there. */
async function makeDirectories({ process }: Plan, inside: Inside, signal?: AbortSignal): Promise<void> {
  for (const path of process.makes) {
    const body = { path: Buffer.from(path), mode: DIRECTORY_MODE, parents: true, user: ROOT };
    await call(inside, { name: "MakeDirectory", body }, `directory ${quote(path)} of the image`, { signal });
  }
}

/**
 * Attaches to the agent of a sandbox that was started, and takes over what it holds.
 * @throws BulkheadError RUNTIME_FAILED, CHANNEL_PROTOCOL, CHANNEL_CLOSED, ABORTED; nothing is left then, `held` neither.
 */
export async function attachSandbox(started: StartedSandbox, options: AttachOptions): Promise<Sandbox> {
  const { plan, driver, keeper, saver, signal } = options;
  const { instance } = started;
  await using stack = new AsyncDisposableStack();
  const { release, released } = releaser(started, options.held);
  stack.defer(release);
  const events = new SandboxEvents();
  started.onLimit((news) => hitsOfKeeper(news, plan.limits).forEach((hit) => events.emit(hit)));
  const before = driver.attachedBefore?.(plan) ?? "no";
  let channel: Channel;
  try {
    channel = await Channel.attach({
      readable: started.channel.readable,
      writable: started.channel.writable,
      fresh: before === "no",
      answered: before === "answered",
      timeoutMs: ANSWER_TIMEOUT_MS,
      configure: configureFor(plan, driver, options.filter ?? new Uint8Array()),
      onLimit: (hit) => events.emit(hitOfAgent(hit, plan.limits)),
      onBroken: () => void release().catch(() => undefined),
      ...(signal !== undefined && { signal }),
    });
    // Nobody else holds the sandbox yet: its end is told by explainAttach.
    const inside: Inside = { channel, explain: async (error) => error };
    await driver.afterAttach?.(plan, inside, signal);
    await makeDirectories(plan, inside, signal);
    if (plan.network !== "none") await openWayOut(inside, options);
  } catch (error) {
    throw await explainAttach(error, started, driver.name);
  }
  const byItself = started.ended.then((ended) => endOf(ended, driver));
  const byUs = released.then((): SandboxEnd => ({ code: null, signal: "SIGKILL", oomKilled: false, reason: null }));
  // What is under way fails by the channel's own end of file, which carries the reason, before the rest is undone.
  void byItself
    .then(() => within(channel.closed, LAST_WORDS_MS))
    .then(release)
    .catch(() => undefined);
  stack.move();
  return new Sandbox({
    id: instance.id,
    name: options.name,
    plan,
    channel,
    workdir: plan.process.workdir,
    events,
    look: () => started.look(),
    ...(options.wayOut && { network: options.wayOut.network }),
    ended: Promise.race([byItself, byUs]),
    freeze: driver.capabilities.freeze ? (frozen) => keeper.freeze(instance, frozen) : null,
    save: saver && { by: saver, running: { instance, keeper } },
    release,
  });
}
