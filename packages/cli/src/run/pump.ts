/**
 * Once the program has ended, its descendants may hold its output open for ever. What the program itself wrote is in the
 * pipe, the agent or the channel by then: all of it arrives without a pause of this length, …
 */
const SETTLE_MS = 100;
/** … and is no more than two pipes (64 KiB), the agent's buffer and the stream's credit (256 KiB) hold. */
const SETTLE_BYTES = 1024 * 1024;

type Next = IteratorResult<Uint8Array, unknown> | "settled";

function settle(after: Promise<unknown>): { readonly promise: Promise<"settled">; cancel(): void } {
  let timer: NodeJS.Timeout | undefined;
  let cancelled = false;
  const promise = new Promise<"settled">((done) => {
    const start = (): void => {
      if (!cancelled) timer = setTimeout(() => done("settled"), SETTLE_MS);
    };
    after.then(start, start);
  });
  const cancel = (): void => {
    cancelled = true;
    clearTimeout(timer);
  };
  return { promise, cancel };
}

/**
 * Carries one output of a program to `write`, one chunk at a time, until it ends, or until the program has ended and
 * nothing of its own can still be under way.
 */
export async function pumpOutput(
  source: AsyncIterable<Uint8Array>,
  write: (chunk: Uint8Array) => Promise<void>,
  ended: Promise<unknown>,
): Promise<void> {
  const chunks = source[Symbol.asyncIterator]();
  let over = false;
  const mark = (): void => void (over = true);
  ended.then(mark, mark);
  let late = 0;
  while (late < SETTLE_BYTES) {
    const quiet = settle(ended);
    const next: Next = await Promise.race([chunks.next(), quiet.promise]);
    quiet.cancel();
    if (next === "settled" || next.done === true) return;
    if (over) late += next.value.length;
    await write(next.value);
  }
}

/** Carries our standard input to the program. A program that reads no more is its own business, no failure. */
export async function pumpInput(
  source: AsyncIterable<Uint8Array>,
  write: (chunk: Uint8Array) => Promise<void>,
  end: () => Promise<void>,
): Promise<void> {
  try {
    for await (const chunk of source) await write(chunk);
    await end();
  } catch {
    // The program's end, if that is what happened, is reported by its exit.
  }
}
