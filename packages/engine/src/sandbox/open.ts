import type { Saver } from "./saver.ts";
import type { Sandbox } from "./sandbox.ts";
import { startSandbox, type StartOptions } from "./start.ts";

export interface OpenOptions extends StartOptions {
  /** Disposed of when the sandbox is no more, or could not be had. */
  readonly held: AsyncDisposable;
  readonly saver?: Saver;
  /** What others on this host find it by, claimed already. */
  readonly name?: string | undefined;
  /** Put on every program that is started, in the kernel's form. Default: none. */
  readonly filter?: Uint8Array;
}

/**
 * Starts the sandbox of a plan and attaches to its agent. The code that speaks to an agent is loaded while the runtime
 * works, which on a short run hides all of its cost.
 * @throws BulkheadError as `startSandbox` and `attachSandbox`; nothing is left then, `held` neither.
 */
export async function openSandbox(options: OpenOptions): Promise<Sandbox> {
  await using stack = new AsyncDisposableStack();
  const held = stack.use(new AsyncDisposableStack());
  held.use(options.held);
  let loading: Promise<typeof import("./attach.ts")> | undefined;
  const load = (): Promise<typeof import("./attach.ts")> => (loading ??= import("./attach.ts"));
  const started = stack.use(await startSandbox({ ...options, whileStarting: () => void load() }));
  const { attachSandbox } = await load();
  // From here on the sandbox gives back both, also when attaching to it fails.
  stack.move();
  return await attachSandbox(started, { ...options, held });
}
