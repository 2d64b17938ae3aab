import { Bucket } from "./bucket.ts";
import type { Refused } from "./policy.ts";

/** Something a sandbox tried over the network and was not let do. Texts are printable ASCII but `why`, which may quote them. */
export interface Denial {
  readonly kind: "dns" | "tcp" | "udp";
  readonly name: string | null;
  readonly address: string | null;
  readonly port: number | null;
  /** The rule that denies, or null when none allows. */
  readonly rule: string | null;
  readonly why: string;
  /** The rule that would allow it, or null when none can. */
  readonly allow: string | null;
  /** How often it was tried, and when last, in milliseconds since 1970. */
  readonly count: number;
  readonly lastAt: number;
}

export interface Denied extends Pick<Denial, "kind"> {
  readonly name?: string | null;
  readonly address?: string;
  readonly port?: number;
}

/** Distinct ones remembered; a sandbox can make up any number. */
const MAX_KEPT = 256;
/** Listeners hear of so many at once, and so many a second after. All are counted. */
const TOLD_BURST = 128;
const TOLD_PER_SECOND = 10;

export type DenialListener = (denial: Denial) => void;

/** The last distinct denials of one sandbox. */
export class Denials {
  readonly #kept = new Map<string, Denial>();
  readonly #listeners = new Set<DenialListener>();
  readonly #now: () => number;
  readonly #told: Bucket;

  constructor(now: () => number) {
    this.#now = now;
    this.#told = new Bucket(TOLD_PER_SECOND, TOLD_BURST, now);
  }

  add(what: Denied, refused: Pick<Refused, "rule" | "why" | "allow">): void {
    const { kind, name = null, address = null, port = null } = what;
    const { rule, why, allow } = refused;
    const key = JSON.stringify([kind, name, address, port, rule, why]);
    const before = this.#kept.get(key);
    const count = (before?.count ?? 0) + 1;
    const denial = { kind, name, address, port, rule, why, allow, count, lastAt: this.#now() };
    this.#kept.delete(key);
    this.#kept.set(key, denial);
    for (const [oldest] of this.#kept) {
      if (this.#kept.size <= MAX_KEPT) break;
      this.#kept.delete(oldest);
    }
    if (before !== undefined || !this.#told.tryTake(1)) return;
    for (const listener of this.#listeners) listener(denial);
  }

  /** Each distinct one at its first time; a flood is cut. */
  listen(listener: DenialListener): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  /** Oldest first. */
  list(): readonly Denial[] {
    return [...this.#kept.values()];
  }
}
