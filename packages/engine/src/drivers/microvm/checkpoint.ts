import { createHash } from "node:crypto";
import { closeSync, constants, createWriteStream, openSync } from "node:fs";
import { Socket } from "node:net";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { BulkheadError } from "@bulkhead/contract";
import { setGuestClock } from "../../guest/refresh.ts";
import type { Running } from "../../sandbox/calls.ts";
import { JAIL } from "./jail-root.ts";
import { Qmp } from "./qmp.ts";

/** The first two are the keeper's to name. */
export const SAVED = { memory: "memory", disk: "disk", state: "state" } as const;
/** State of the devices: measured 150 KB with one processor; 32 of them and full queues stay far below. */
const MAX_STATE_BYTES = 16 * 1024 * 1024;
const MIB = 1024 * 1024;
/** Requests to the disk that are under way end first. */
const ANSWER_TIMEOUT_MS = 30_000;

export function savedSizes(size: {
  readonly memoryMib: number;
  readonly scratch: { readonly bytes: number };
}): Readonly<Record<string, number>> {
  return {
    [SAVED.memory]: size.memoryMib * MIB,
    [SAVED.disk]: size.scratch.bytes,
    [SAVED.state]: MAX_STATE_BYTES,
  };
}

/** Short names of long things that are only compared. */
export function fingerprint(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 32);
}

/**
 * Stops the virtual machine, writes the state of its devices and has the keeper write its memory and disk, and lets it go
 * on. The state comes over a FIFO in the jail: QEMU may open no socket and start no program. `migrate` could write nowhere
 * else, and would copy all of the guest's memory through QEMU; this command saves what is not memory, and the keeper
 * takes of the memory only what the guest has changed.
 */
export async function saveMachine(running: Running, dir: string, signal?: AbortSignal): Promise<void> {
  const control = join(running.instance.dir, "control");
  using qmp = Qmp.overFifos(join(control, "qmp"));
  const ask = (execute: string, args?: object): Promise<unknown> => answered(qmp, execute, args);
  try {
    await ask("stop");
    signal?.throwIfAborted();
    await saveState(join(control, "state"), join(dir, SAVED.state), () =>
      ask("xen-save-devices-state", { filename: `${JAIL.control}/state`, live: false }),
    );
    signal?.throwIfAborted();
    await running.keeper.capture(running.instance, dir);
  } finally {
    await goOn(ask, running);
  }
}

async function goOn(ask: (execute: string) => Promise<unknown>, { inside, instance }: Running): Promise<void> {
  try {
    await ask("cont");
    // Its clocks stood still as well.
    await setGuestClock(inside, { signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
  } catch (cause) {
    const what = `sandbox ${instance.id} was stopped to be saved and does not go on`;
    throw new BulkheadError("SANDBOX_GONE", { what, next: "start a new one", cause });
  }
}

function answered(qmp: Qmp, execute: string, args?: object): Promise<unknown> {
  return inTime(`answer ${execute}`, qmp.send({ execute, ...(args && { arguments: args }) }));
}

async function inTime<T>(what: string, work: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const text = `QEMU did not ${what} within ${ANSWER_TIMEOUT_MS / 1000} s`;
  const timer = setTimeout(() => late.reject(new BulkheadError("TIMEOUT", { what: text })), ANSWER_TIMEOUT_MS);
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** @param write has QEMU write to the FIFO and resolves when all of it is in there */
async function saveState(fifo: string, to: string, write: () => Promise<unknown>): Promise<void> {
  const reader = new Socket({ fd: openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK), writable: false });
  // As long as somebody may still write the reader sees no end.
  const helper = openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK);
  const file = createWriteStream(to, { flags: "wx", mode: 0o600 });
  const copied = pipeline(reader, bounded, file);
  copied.catch(() => undefined);
  try {
    try {
      await Promise.race([write(), copied]);
    } finally {
      closeSync(helper);
    }
    // QEMU, too, has closed it unless it was taken over.
    await inTime("end the state of its devices", copied);
  } finally {
    reader.destroy();
  }
}

async function* bounded(source: Readable): AsyncGenerator<Buffer> {
  let bytes = 0;
  for await (const chunk of source) {
    bytes += (chunk as Buffer).length;
    if (bytes > MAX_STATE_BYTES) {
      const what = `the state of a virtual machine's devices is larger than ${MAX_STATE_BYTES} bytes`;
      throw new BulkheadError("RUNTIME_FAILED", { what, next: "treat what ran inside as hostile" });
    }
    yield chunk as Buffer;
  }
}
