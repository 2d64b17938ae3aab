import { waitIdle } from "./machine.ts";

export interface Entry {
  readonly name: string;
  /** One measurement. */
  run(): Promise<Readonly<Record<string, number>>>;
}

export interface Series {
  readonly name: string;
  /** Every value of each measured quantity, in order. */
  readonly values: Readonly<Record<string, readonly number[]>>;
  /** Runs that were started although the machine did not become idle. */
  readonly busy: number;
  /** Why it stopped, when it failed. */
  readonly failure: string | null;
}

export interface ScheduleOptions {
  readonly rounds: number;
  /** Unmeasured ones before, for caches. */
  readonly warmups: number;
  readonly signal: AbortSignal;
  readonly progress: (text: string) => void;
}

/** What one entry may take of a part's time; it has fewer rounds then, and the table is not held up. */
const BUDGET_MS = 40_000;

/**
 * Measures the entries in turn, one of each per round, so that what the machine does meanwhile falls on all alike. An
 * entry that fails is left out from then on, and says why.
 */
export async function interleave(entries: readonly Entry[], options: ScheduleOptions): Promise<readonly Series[]> {
  const state = entries.map((entry) => ({
    entry,
    values: new Map<string, number[]>(),
    busy: 0,
    spentMs: 0,
    failure: null as string | null,
  }));
  for (let round = -options.warmups; round < options.rounds; round++) {
    // A fixed order would let one entry always follow the one that leaves the most behind.
    const turn = state.map((_, i) => state[(i + Math.max(0, round)) % state.length]).filter((one) => one !== undefined);
    for (const one of turn) {
      options.signal.throwIfAborted();
      if (one.failure !== null || one.spentMs > BUDGET_MS) continue;
      const idle = await waitIdle();
      options.progress(`${one.entry.name}, round ${Math.max(0, round + 1)} of ${options.rounds}`);
      const started = performance.now();
      try {
        const measured = await one.entry.run();
        if (round < 0) continue;
        if (!idle) one.busy += 1;
        for (const [name, value] of Object.entries(measured))
          one.values.set(name, [...(one.values.get(name) ?? []), value]);
      } catch (error) {
        one.failure = error instanceof Error ? error.message : String(error);
      }
      one.spentMs += performance.now() - started;
    }
  }
  return state.map(({ entry, values, busy, failure }) => ({
    name: entry.name,
    values: Object.fromEntries(values),
    busy,
    failure,
  }));
}
