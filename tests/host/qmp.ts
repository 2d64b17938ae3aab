import type { Duplex } from "node:stream";

const TIMEOUT_MS = 60_000;

interface Answer {
  readonly return?: unknown;
  readonly error?: { readonly desc: string };
  readonly event?: string;
}

/** QEMU's control connection: one command at a time. */
export class Qmp {
  readonly #stream: Duplex;
  #rest = "";
  #waiting: PromiseWithResolvers<unknown> | null = null;

  constructor(stream: Duplex) {
    this.#stream = stream;
    stream.on("data", (chunk: Buffer) => this.#push(chunk.toString("utf8")));
    stream.on("close", () => this.#waiting?.reject(new Error("QEMU closed its control connection")));
  }

  /** @returns what QEMU answers; events between are passed over */
  async call(execute: string, args: object = {}): Promise<unknown> {
    const waiting = Promise.withResolvers<unknown>();
    this.#waiting = waiting;
    const timer = setTimeout(() => waiting.reject(new Error(`QEMU did not answer ${execute}`)), TIMEOUT_MS);
    this.#stream.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    try {
      return await waiting.promise;
    } finally {
      clearTimeout(timer);
      this.#waiting = null;
    }
  }

  #push(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line.trim() === "") continue;
      const answer = JSON.parse(line) as Answer;
      if (answer.error !== undefined) this.#waiting?.reject(new Error(`QEMU: ${answer.error.desc}`));
      else if ("return" in answer) this.#waiting?.resolve(answer.return);
    }
  }
}
