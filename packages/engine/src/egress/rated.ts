import { Duplex } from "node:stream";
import type { NetworkPolicy } from "@bulkhead/contract";
import { Bucket } from "./bucket.ts";

/** A fifth of a second's worth, and never less than a piece of the channel: large enough to be smooth, small enough to be felt. */
const BURST_SECONDS = 0.2;
const BURST_MIN_BYTES = 65_536;

/** How fast a sandbox may send and be sent to, all its connections together. */
export class Rate {
  readonly #now: () => number;
  #out: Bucket | null = null;
  #in: Bucket | null = null;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** Each way by itself. */
  set({ rateBytesPerSecond, sendBytesPerSecond, receiveBytesPerSecond }: NetworkPolicy): void {
    const make = (rate: number | undefined): Bucket | null =>
      rate === undefined ? null : new Bucket(rate, Math.max(rate * BURST_SECONDS, BURST_MIN_BYTES), this.#now);
    this.#out = make(sendBytesPerSecond ?? rateBytesPerSecond);
    this.#in = make(receiveBytesPerSecond ?? rateBytesPerSecond);
  }

  /** @returns for how many milliseconds those bytes have to wait. */
  leaving(bytes: number): number {
    return this.#out?.take(bytes) ?? 0;
  }

  entering(bytes: number): number {
    return this.#in?.take(bytes) ?? 0;
  }

  /** For what is dropped rather than kept waiting. */
  letLeave(bytes: number): boolean {
    return this.#out?.tryTake(bytes) ?? true;
  }

  letEnter(bytes: number): boolean {
    return this.#in?.tryTake(bytes) ?? true;
  }
}

/** The same connection, held to a rate: what is read from it leaves the sandbox, what is written to it enters. */
export function rated(connection: Duplex, rate: Rate): Duplex {
  let timer: NodeJS.Timeout | undefined;
  const later = (ms: number, act: () => void): void => {
    if (ms <= 0) act();
    else timer = setTimeout(act, ms);
  };
  let waiting: NodeJS.Timeout | undefined;
  const duplex = new Duplex({
    allowHalfOpen: true,
    read: () => {
      if (waiting === undefined) connection.resume();
    },
    write: (chunk: Buffer, _encoding, done) => {
      later(rate.entering(chunk.length), () => connection.write(chunk, (error) => done(error ?? null)));
    },
    final: (done) => {
      connection.end(() => done());
    },
    destroy: (error, done) => {
      clearTimeout(timer);
      clearTimeout(waiting);
      connection.destroy();
      done(error);
    },
  });
  const give = (chunk: Buffer): void => {
    waiting = undefined;
    if (duplex.push(chunk)) connection.resume();
    else connection.pause();
  };
  connection.on("data", (chunk: Buffer) => {
    const ms = rate.leaving(chunk.length);
    if (ms <= 0) return give(chunk);
    connection.pause();
    waiting = setTimeout(give, ms, chunk);
  });
  connection.on("end", () => duplex.push(null));
  connection.on("error", (error) => duplex.destroy(error));
  connection.on("close", () => {
    if (!connection.readableEnded || !connection.writableFinished) duplex.destroy();
  });
  connection.pause();
  duplex.on("error", ignore);
  return duplex;
}

function ignore(): void {}
