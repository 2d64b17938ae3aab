import { BulkheadError } from "@bulkhead/contract";
import type { LimitHit } from "@bulkhead/engine";
import { OutputClosed } from "./output.ts";
import type { Ended, Program } from "./program.ts";
import { pumpInput, pumpOutput } from "./pump.ts";
import type { Report } from "./report.ts";
import { Stopper, type Stop } from "./stopper.ts";
import { exitCodeOfSignal, type SignalForwarder } from "./signals.ts";
import { onResize, rawMode } from "./terminal.ts";

export interface SessionOptions {
  readonly interactive: boolean;
  readonly terminal: boolean;
  readonly report: Report;
  readonly signals: SignalForwarder;
  /** How the program is ended when we are asked to end. */
  readonly stop: Stop;
  /** The limits that were reached until now. */
  readonly limitsReached: () => Promise<readonly LimitHit[]>;
}

/** A program whose reader has gone ends as one that wrote into a closed pipe does at home. */
const ENDED_BY_CLOSED_PIPE: Ended = { code: exitCodeOfSignal("SIGPIPE"), signal: "SIGPIPE" };

/** Its output breaks off as soon as the sandbox is gone; why it is comes a moment later, with the program's own end. */
function explained(error: BulkheadError, { ended }: Program): Promise<unknown> {
  return ended.then(
    () => error,
    (cause: unknown) => cause,
  );
}

/**
 * Ties a running program to our own streams, terminal and signals until it has ended and all its output is written.
 * @returns how it ended; SIGPIPE when the reader of our output went away first and the program was killed for it.
 */
export async function attach(program: Program, options: SessionOptions): Promise<Ended> {
  const { report, signals } = options;
  const started = performance.now();
  using stack = new DisposableStack();
  const stopper = stack.use(new Stopper(program, options.stop));
  signals.deliverTo((name) => (name === "SIGTERM" ? stopper.stop() : program.signal(name)));
  if (options.terminal) stack.use(onResize((size) => program.resize(size)));
  if (options.interactive) {
    if (options.terminal) stack.use(rawMode(process.stdin));
    void pumpInput(
      process.stdin,
      (chunk) => program.write(chunk),
      () => program.endInput(),
    );
  }
  const pumps: Promise<void>[] = [];
  try {
    pumps.push(pumpOutput(program.stdout, (chunk) => report.chunk("stdout", chunk), program.ended));
    if (program.stderr !== null) {
      pumps.push(pumpOutput(program.stderr, (chunk) => report.chunk("stderr", chunk), program.ended));
    }
    const [ended] = await Promise.all([program.ended, ...pumps]);
    await report.limits(await options.limitsReached());
    await report.ended(ended, performance.now() - started);
    return ended;
  } catch (error) {
    if (error instanceof OutputClosed) {
      program.signal("SIGKILL");
      return ENDED_BY_CLOSED_PIPE;
    }
    // What the program wrote before it was ended is written first.
    await Promise.allSettled(pumps);
    await report.limits(await options.limitsReached());
    throw error instanceof BulkheadError ? await explained(error, program) : error;
  }
}
