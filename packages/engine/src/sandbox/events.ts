/** What a sandbox can reach the limit of. */
export type LimitName = "memory" | "pids" | "disk" | "output" | "timeout" | "idle";

export type Killed =
  | { readonly what: "sandbox" }
  | {
      readonly what: "process";
      /** Inside and on the host, each null where it is not known. */
      readonly pid: number | null;
      readonly hostPid: number | null;
      /** As the kernel has it, at most 15 characters; null where it named nobody. Chosen by the program: untrusted. */
      readonly command: string | null;
    };

/** A limit was reached. */
export interface LimitHit {
  readonly kind: "limit-hit";
  readonly limit: LimitName;
  /** The volume that is full; absent where it is the writable layer. */
  readonly volume?: string;
  /** What was asked for: bytes, processes, milliseconds. */
  readonly value: number;
  /** Milliseconds since 1970. */
  readonly atMs: number;
  /** What was ended for it; null where the program was refused something and went on. */
  readonly killed: Killed | null;
  /** `inside`: the sandbox's own agent says so, and a hostile kernel there may lie. */
  readonly toldBy: "host" | "inside";
}

/** Everything that happens to a sandbox and is no answer to a call. Tell them apart by `kind`: there will be more. */
export type SandboxEvent = LimitHit;

/** Programs that reach limits in a loop must not fill the host's memory: older ones are forgotten. */
const KEPT = 256;

/** The events of one sandbox, of which everybody who listens hears all that are kept, from the first on. */
export class SandboxEvents {
  readonly #kept: SandboxEvent[] = [];
  /** Events before the first that is kept. */
  #forgotten = 0;
  #news = Promise.withResolvers<void>();
  #over = false;

  get kept(): readonly SandboxEvent[] {
    return this.#kept;
  }

  emit(event: SandboxEvent): void {
    if (this.#over) return;
    this.#kept.push(event);
    if (this.#kept.length > KEPT) {
      this.#kept.shift();
      this.#forgotten += 1;
    }
    this.#wake();
  }

  /** Nothing more will happen. */
  end(): void {
    this.#over = true;
    this.#wake();
  }

  #wake(): void {
    this.#news.resolve();
    this.#news = Promise.withResolvers<void>();
  }

  /** Ends with the sandbox. A listener that is slower than events come misses the oldest. */
  async *listen(): AsyncGenerator<SandboxEvent, void, undefined> {
    let next = 0;
    for (;;) {
      next = Math.max(next, this.#forgotten);
      const event = this.#kept[next - this.#forgotten];
      if (event !== undefined) {
        next += 1;
        yield event;
      } else if (this.#over) {
        return;
      } else {
        await this.#news.promise;
      }
    }
  }
}
