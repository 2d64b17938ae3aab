/** Pairs of address and name remembered of one sandbox; a large page load has some hundred. */
const MAX_PAIRS = 4096;
/** Programs go on using an address long after its time to live: Java half a minute, connection pools for ever. */
const KEEP_MS = 3_600_000;

/**
 * Which addresses a sandbox was given for which names: what it may connect to by name. The oldest are forgotten first; a
 * program whose address was forgotten asks again.
 */
export class AddressBook {
  /** By address and name, oldest first. Values: until when, in milliseconds of the clock. */
  readonly #pairs = new Map<string, { readonly address: string; readonly name: string; readonly until: number }>();
  readonly #names = new Map<string, Set<string>>();
  readonly #now: () => number;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** @param ttlMs how long the answer holds; never less than an hour is kept. */
  add(name: string, address: string, ttlMs: number): void {
    const key = `${address} ${name}`;
    this.#pairs.delete(key);
    this.#pairs.set(key, { address, name, until: this.#now() + Math.max(ttlMs, KEEP_MS) });
    const names = this.#names.get(address) ?? new Set();
    this.#names.set(address, names.add(name));
    for (const [oldest] of this.#pairs) {
      if (this.#pairs.size <= MAX_PAIRS) break;
      this.#forget(oldest);
    }
  }

  /** @returns the names for which the address was given, latest last. */
  namesOf(address: string): readonly string[] {
    const now = this.#now();
    const names = [...(this.#names.get(address) ?? [])];
    return names.filter((name) => {
      const pair = this.#pairs.get(`${address} ${name}`);
      if (pair !== undefined && pair.until > now) return true;
      this.#forget(`${address} ${name}`);
      return false;
    });
  }

  #forget(key: string): void {
    const pair = this.#pairs.get(key);
    if (pair === undefined) return;
    this.#pairs.delete(key);
    const names = this.#names.get(pair.address);
    names?.delete(pair.name);
    if (names?.size === 0) this.#names.delete(pair.address);
  }
}
