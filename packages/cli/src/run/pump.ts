/**
 * Once the program has ended, a descendant that holds its output open may write for ever. What the program itself wrote is
 * by then in two pipes (64 KiB each), the agent's buffer or the stream's credit (256 KiB): this much holds all of it.
 */
const LATE_BYTES = 1024 * 1024;

/**
 * Carries one output of a program to `write`, one chunk at a time, until it ends, or until the program has ended and
 * nothing of its own can still be under way.
 */
export async function pumpOutput(
  source: AsyncIterable<Uint8Array>,
  write: (chunk: Uint8Array) => Promise<void>,
  ended: Promise<unknown>,
): Promise<void> {
  let over = false;
  const mark = (): void => void (over = true);
  ended.then(mark, mark);
  let late = 0;
  for await (const chunk of source) {
    if (over) late += chunk.length;
    await write(chunk);
    if (late >= LATE_BYTES) return;
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
