import { connect, type Socket } from "node:net";
import { BulkheadError } from "@bulkhead/contract";
import { splitLines } from "../../system/lines.ts";

/** Answers are a few hundred bytes. */
const MAX_LINE_CHARACTERS = 64 * 1024;

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: BulkheadError) => void;
}

function failed(why: string): BulkheadError {
  return new BulkheadError("RUNTIME_FAILED", { what: "QEMU did not do what it was told", why });
}

/** One QEMU's control socket: a command, its answer, one after the other. */
export class Qmp implements Disposable {
  readonly #socket: Socket;
  #waiting: Waiting[] = [];

  private constructor(socket: Socket) {
    this.#socket = socket;
    const end = (why: string): void => {
      for (const one of this.#waiting) one.reject(failed(why));
      this.#waiting = [];
    };
    splitLines(socket, MAX_LINE_CHARACTERS, {
      line: (text) => this.#line(text),
      end: () => end("it closed its control socket"),
      tooLong: () => end("a line of its answer is too long"),
    });
    socket.on("error", (error) => end(error.message));
  }

  static async open(path: string): Promise<Qmp> {
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", (error) => reject(failed(error.message)));
    });
    return new Qmp(socket);
  }

  /** @returns what it answered. @throws BulkheadError RUNTIME_FAILED with its own words. */
  send(command: object): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#socket.write(`${JSON.stringify(command)}\n`);
    });
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }

  #line(text: string): void {
    const line = JSON.parse(text) as { return?: unknown; error?: { desc?: string } };
    // A greeting and events answer nothing.
    if (line.return === undefined && line.error === undefined) return;
    const waiting = this.#waiting.shift();
    if (line.error === undefined) waiting?.resolve(line.return);
    else waiting?.reject(failed(line.error.desc ?? text));
  }
}
