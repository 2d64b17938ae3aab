/** How a program is ended: by this signal, and when it is still there after that long by SIGKILL. */
export interface Stop {
  readonly signal: string;
  readonly timeoutMs: number;
}

/** Ends a program as it wants to be ended. Asked again it signals again; the time is that of the first asking. */
export class Stopper implements Disposable {
  readonly #program: { signal(name: string): void };
  readonly #stop: Stop;
  #timer: NodeJS.Timeout | undefined;

  constructor(program: { signal(name: string): void }, stop: Stop) {
    this.#program = program;
    this.#stop = stop;
  }

  stop(): void {
    this.#program.signal(this.#stop.signal);
    this.#timer ??= setTimeout(() => this.#program.signal("SIGKILL"), this.#stop.timeoutMs);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}
