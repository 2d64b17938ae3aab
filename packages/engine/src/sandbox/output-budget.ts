/** What the lanes of one program may deliver together. */
export class OutputBudget {
  readonly #exceeded: () => void;
  #left: number;
  #over = false;

  /** @param exceeded called once, at the first byte too many; what came before it has been delivered by then. */
  constructor(maxBytes: number, exceeded: () => void) {
    this.#left = maxBytes;
    this.#exceeded = exceeded;
  }

  /** @returns the part of a piece that may still be delivered. */
  take(piece: Buffer): Buffer {
    const fits = Math.min(piece.length, this.#left);
    this.#left -= fits;
    if (fits < piece.length && !this.#over) {
      this.#over = true;
      // From within the channel's data event: ending the stream must not change the lane that is being read.
      queueMicrotask(this.#exceeded);
    }
    return fits === piece.length ? piece : piece.subarray(0, fits);
  }
}
