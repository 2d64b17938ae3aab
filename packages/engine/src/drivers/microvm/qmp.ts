import { randomInt } from "node:crypto";
import { closeSync, constants, openSync } from "node:fs";
import { connect, Socket } from "node:net";
import type { Readable, Writable } from "node:stream";
import { BulkheadError } from "@bulkhead/contract";
import { untrustedText } from "../../channel/errors.ts";
import { splitLines } from "../../system/lines.ts";

/** Answers are a few hundred bytes. */
const MAX_LINE_CHARACTERS = 64 * 1024;
/** What has gathered in a FIFO while nobody read it, and what comes meanwhile: a monitor that says more is not ours any more. */
const MAX_LINES = 10_000;

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: BulkheadError) => void;
}

function failed(why: string): BulkheadError {
  return new BulkheadError("RUNTIME_FAILED", { what: "QEMU did not do what it was told", why });
}

/** One QEMU's control: a command, its answer. What it says is not trusted. */
export class Qmp implements Disposable {
  readonly #readable: Readable;
  readonly #writable: Writable;
  readonly #waiting = new Map<number, Waiting>();
  /** No number of an earlier control over the same FIFOs, whose late answers may still come. */
  #lastId = randomInt(2 ** 47);
  #lines = 0;
  #ended: string | null = null;

  private constructor(readable: Readable, writable: Writable) {
    this.#readable = readable;
    this.#writable = writable;
    splitLines(readable, MAX_LINE_CHARACTERS, {
      line: (text) => this.#line(text),
      end: () => this.#end("it closed its control"),
      tooLong: () => this.#end("a line of its answer is too long"),
    });
    for (const stream of new Set([readable, writable])) stream.on("error", (error) => this.#end(error.message));
  }

  /** Over a socket that QEMU listens on. */
  static async open(path: string): Promise<Qmp> {
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", (error) => reject(failed(error.message)));
    });
    return new Qmp(socket, socket);
  }

  /** Over the FIFOs `<path>.in` and `<path>.out`, which QEMU holds open. One at a time may be open. */
  static overFifos(path: string): Qmp {
    let output: number | null = null;
    try {
      output = openSync(`${path}.out`, constants.O_RDONLY | constants.O_NONBLOCK);
      const input = openSync(`${path}.in`, constants.O_WRONLY | constants.O_NONBLOCK);
      return new Qmp(new Socket({ fd: output, writable: false }), new Socket({ fd: input, readable: false }));
    } catch (cause) {
      if (output !== null) closeSync(output);
      throw failed(cause instanceof Error ? cause.message : String(cause));
    }
  }

  /** @returns what it answered. @throws BulkheadError RUNTIME_FAILED with its own words. */
  send(command: object): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#ended !== null) throw failed(this.#ended);
      this.#lastId += 1;
      this.#waiting.set(this.#lastId, { resolve, reject });
      this.#writable.write(`${JSON.stringify({ ...command, id: this.#lastId })}\n`);
    });
  }

  [Symbol.dispose](): void {
    this.#readable.destroy();
    this.#writable.destroy();
    this.#end("its control was closed");
  }

  #end(why: string): void {
    this.#ended ??= why;
    for (const one of this.#waiting.values()) one.reject(failed(why));
    this.#waiting.clear();
  }

  #line(text: string): void {
    this.#lines += 1;
    if (this.#lines > MAX_LINES) {
      this.#readable.destroy();
      return this.#end("it says too much");
    }
    const line = parsed(text);
    // A greeting, events and answers to others have no id of ours.
    const id = line?.["id"];
    const waiting = typeof id === "number" ? this.#waiting.get(id) : undefined;
    if (line === null || waiting === undefined) return;
    this.#waiting.delete(id as number);
    if (line["error"] === undefined) return waiting.resolve(line["return"]);
    const desc = (line["error"] as { desc?: unknown } | null)?.desc;
    waiting.reject(failed(untrustedText(typeof desc === "string" ? desc : text)));
  }
}

function parsed(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}
