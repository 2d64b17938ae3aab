/** A token bucket. Times in milliseconds. */
export class Bucket {
  readonly #burst: number;
  readonly #now: () => number;
  #perMs: number;
  #level: number;
  #at: number;

  /** @param rate tokens a second. @param burst tokens it holds when nothing was taken for long. */
  constructor(rate: number, burst: number, now: () => number) {
    this.#perMs = rate / 1000;
    this.#burst = burst;
    this.#now = now;
    this.#level = burst;
    this.#at = now();
  }

  #fill(): void {
    const now = this.#now();
    this.#level = Math.min(this.#burst, this.#level + (now - this.#at) * this.#perMs);
    this.#at = now;
  }

  /** Takes them when they are there. */
  tryTake(count: number): boolean {
    this.#fill();
    if (this.#level < count) return false;
    this.#level -= count;
    return true;
  }

  /** Takes them in any case. @returns after how many milliseconds they are paid for: takers in turn wait in turn. */
  take(count: number): number {
    this.#fill();
    this.#level -= count;
    return Math.max(0, -this.#level / this.#perMs);
  }
}
