import type { Readable } from "node:stream";

export interface OutputEvent {
  readonly lane: "stdout" | "stderr";
  readonly data: Buffer;
}

/** Both lanes as they come, with back-pressure on both. Leaving the loop discards what follows. */
export async function* mergeLanes(stdout: Readable, stderr: Readable): AsyncGenerator<OutputEvent, void, undefined> {
  const lanes = [
    { lane: "stdout" as const, from: stdout },
    { lane: "stderr" as const, from: stderr },
  ];
  let wake = Promise.withResolvers<void>();
  const stir = (): void => wake.resolve();
  for (const { from } of lanes) for (const event of ["readable", "end", "error", "close"]) from.on(event, stir);
  try {
    for (;;) {
      let found = false;
      for (const { lane, from } of lanes) {
        const data = from.read() as Buffer | null;
        if (data === null) continue;
        found = true;
        yield { lane, data };
      }
      if (found) continue;
      for (const { from } of lanes) if (from.errored !== null) throw from.errored;
      if (lanes.every(({ from }) => from.readableEnded || from.destroyed)) return;
      await wake.promise;
      wake = Promise.withResolvers<void>();
    }
  } finally {
    for (const { from } of lanes) from.destroy();
  }
}
