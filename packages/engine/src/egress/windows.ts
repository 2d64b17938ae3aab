import { INITIAL_CREDIT_BYTES } from "../channel/wire.gen.ts";

const KIB = 1024;

/**
 * The agent keeps up to three times a connection's window, out of the sandbox's own memory. A few connections get what a fast
 * transfer needs; what hundreds get is bounded in sum: 6 MiB, 6 MiB and 10 MiB for the 256 there are at most.
 */
const CLASSES = [
  { bytes: INITIAL_CREDIT_BYTES, count: 8 },
  { bytes: 64 * KIB, count: 32 },
  { bytes: 16 * KIB, count: Infinity },
] as const;

export interface Window {
  readonly bytes: number;
  /** May be called again. */
  free(): void;
}

/** Shares out the windows of one sandbox's connections. */
export class Windows {
  readonly #taken = CLASSES.map(() => 0);

  take(): Window {
    const index = CLASSES.findIndex(({ count }, i) => (this.#taken[i] ?? 0) < count);
    this.#taken[index] = (this.#taken[index] ?? 0) + 1;
    let taken = true;
    return {
      bytes: CLASSES[index]!.bytes,
      free: () => {
        if (taken) this.#taken[index] = (this.#taken[index] ?? 0) - 1;
        taken = false;
      },
    };
  }
}
