import type { Arrived } from "./arrival.ts";
import type { Descriptor } from "./manifest.ts";

export type LayerState = "waiting" | "downloading" | "downloaded" | "unpacking" | "done";

/** What a pull is busy with. Bytes are those of a layer as it travels, also while it is unpacked. */
export type PullEvent =
  | { readonly kind: "phase"; readonly label: string }
  /** The image is in the store. */
  | { readonly kind: "end"; readonly digest: string }
  | {
      readonly kind: "layer";
      readonly digest: string;
      readonly state: LayerState;
      readonly done: number;
      readonly total: number;
    };

export type OnPull = (event: PullEvent) => void;

/** Turns what is seen of layers into events: one when something has changed, and none that goes backwards. */
export class PullReport {
  readonly #emit: OnPull;
  readonly #sizes: ReadonlyMap<string, number>;
  readonly #last = new Map<string, string>();

  constructor(layers: readonly Descriptor[], emit: OnPull) {
    this.#emit = emit;
    this.#sizes = new Map(layers.map(({ digest, size }) => [digest, size]));
    for (const digest of this.#sizes.keys()) this.layer(digest, "waiting", 0);
  }

  layer(digest: string, state: LayerState, done: number): void {
    const total = this.#sizes.get(digest);
    if (total === undefined) return;
    const key = `${state} ${done}`;
    if (this.#last.get(digest) === key) return;
    this.#last.set(digest, key);
    this.#emit({ kind: "layer", digest, state, done, total });
  }

  arrived(blobs: readonly Arrived[]): void {
    for (const { digest, bytes, whole } of blobs) {
      if (whole) this.layer(digest, "downloaded", bytes);
      else if (bytes > 0) this.layer(digest, "downloading", bytes);
    }
  }
}
