import { BulkheadError } from "@bulkhead/contract";
import type { Channel } from "../channel/channel.ts";

/** Stops all that runs in a sandbox where it stands, or lets it go on. Either may be asked for twice. */
export type Freeze = (frozen: boolean) => Promise<void>;

export interface LifeParts {
  readonly id: string;
  readonly channel: Channel;
  /** Null where the driver declares that it cannot. */
  readonly freeze: Freeze | null;
  /** For messages. */
  readonly driver: string;
}

/** Whether a sandbox runs or is paused. What changes that, or must not be disturbed by it, happens one after the other. */
export class Life {
  readonly #parts: LifeParts;
  #last: Promise<unknown> = Promise.resolve();
  #paused = false;

  constructor(parts: LifeParts) {
    this.#parts = parts;
  }

  get paused(): boolean {
    return this.#paused;
  }

  pause(): Promise<void> {
    return this.#inTurn(async () => {
      const { channel, id } = this.#parts;
      const freeze = this.#freezer("paused");
      // Before it is frozen: what is asked from now on would wait for the agent.
      channel.refuse(() => new BulkheadError("SANDBOX_PAUSED", { what: `sandbox ${id} is paused` }));
      try {
        await freeze(true);
        this.#paused = true;
      } finally {
        if (!this.#paused) channel.refuse(null);
      }
    });
  }

  resume(): Promise<void> {
    return this.#inTurn(async () => {
      await this.#freezer("resumed")(false);
      this.#paused = false;
      this.#parts.channel.refuse(null);
    });
  }

  /** Does `work` while the sandbox runs. @throws BulkheadError SANDBOX_PAUSED, or why it is gone. */
  whileRunning<T>(work: () => Promise<T>): Promise<T> {
    return this.#inTurn(async () => {
      this.#parts.channel.requireUsable();
      return await work();
    });
  }

  /** What fails because the sandbox has ended says so. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(work).catch((error: unknown) => {
      throw this.#parts.channel.failure ?? error;
    });
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  #freezer(done: string): Freeze {
    const { freeze, driver, id, channel } = this.#parts;
    if (channel.failure !== null) throw channel.failure;
    if (freeze !== null) return freeze;
    throw new BulkheadError("NOT_SUPPORTED", { what: `sandbox ${id} cannot be ${done}`, why: `${driver} cannot` });
  }
}
