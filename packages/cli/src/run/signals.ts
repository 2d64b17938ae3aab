import { constants } from "node:os";

const FORWARDED = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const;
/** Signals whose sender wants the program gone; one that ignores them is killed at the third. */
const ENDING: ReadonlySet<string> = new Set(["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP"]);
const KILL_AT = 3;

export type ForwardedSignal = (typeof FORWARDED)[number];

/** @returns 128 + n, the exit code of a shell for a program that a signal ended. */
export function exitCodeOfSignal(signal: string): number {
  return 128 + (constants.signals[signal as NodeJS.Signals] ?? 0);
}

/**
 * Takes the signals a person or a supervisor sends us. Until the program runs, the first ending signal aborts the start;
 * from then on every signal goes to the program, and the third ending one kills it.
 */
export class SignalForwarder implements Disposable {
  readonly #abort = new AbortController();
  readonly #listeners = new Map<ForwardedSignal, () => void>();
  #target: ((signal: NodeJS.Signals) => void) | undefined;
  #ending = 0;
  #first: ForwardedSignal | undefined;

  constructor() {
    for (const name of FORWARDED) {
      const listener = (): void => this.#on(name);
      this.#listeners.set(name, listener);
      process.on(name, listener);
    }
  }

  /** Aborted by an ending signal that came before the program ran. */
  get starting(): AbortSignal {
    return this.#abort.signal;
  }

  /** The first ending signal, if one came. */
  get first(): ForwardedSignal | undefined {
    return this.#first;
  }

  /** From now on signals go to `target`; one that came while the program was being started goes there at once. */
  deliverTo(target: (signal: NodeJS.Signals) => void): void {
    this.#target = target;
    if (this.#first !== undefined) target(this.#first);
  }

  #on(name: ForwardedSignal): void {
    if (ENDING.has(name)) {
      this.#ending += 1;
      this.#first ??= name;
    }
    if (this.#target === undefined) {
      if (ENDING.has(name)) this.#abort.abort();
      return;
    }
    this.#target(this.#ending >= KILL_AT ? "SIGKILL" : name);
  }

  [Symbol.dispose](): void {
    for (const [name, listener] of this.#listeners) process.off(name, listener);
  }
}
