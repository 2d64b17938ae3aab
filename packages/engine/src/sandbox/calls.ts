import type { BulkheadError } from "@bulkhead/contract";
import type { Channel } from "../channel/channel.ts";
import { Malformed, WireReader } from "../channel/codec.ts";
import type { OpenMessage } from "../channel/grammar.ts";
import type { ChannelStream, StreamMessage } from "../channel/stream.ts";
import { MAX_RECORD_BYTES } from "../channel/wire.gen.ts";
import type { Instance } from "../drivers/driver.ts";
import type { Keeper } from "../system/keeper.ts";
import { aborted } from "./errors.ts";

/** What every operation on a sandbox works with. */
export interface Inside {
  readonly channel: Channel;
  /** Adds to "the sandbox is gone" why it is, once that is known. */
  explain(error: BulkheadError): Promise<BulkheadError>;
  /** Resolves when every limit that was reached until now is among the sandbox's events. Never rejects. */
  look?(): Promise<void>;
  /** Of one program's output; `reached` is told when one has been killed for it. */
  readonly output?: { readonly maxBytes: number; reached(pid: number | null): void };
}

/** A sandbox as those see it who work on it from outside. */
export interface Running {
  readonly instance: Instance;
  readonly keeper: Keeper;
  readonly inside: Inside;
}

export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
}

/** One request with short answers: opens, waits for Done. @returns the messages before Done, in order. */
export function call(
  inside: Inside,
  message: OpenMessage,
  subject: string,
  options: CallOptions = {},
): Promise<readonly StreamMessage[]> {
  const { signal } = options;
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) throw aborted(subject, signal);
    const answers: StreamMessage[] = [];
    const stream = inside.channel.open(message, {
      subject,
      message: (answer) => answers.push(answer),
      end: (end) => {
        signal?.removeEventListener("abort", abort);
        if (end.how === "done") resolve(answers);
        else void inside.explain(end.error).then(reject);
      },
    });
    const abort = (): void => {
      stream.cancel();
      reject(aborted(subject, signal));
    };
    signal?.addEventListener("abort", abort, { once: true });
  });
}

type Bodies = { [M in StreamMessage as M["name"]]: M["body"] };

/** @returns the answer of that name; the stream's grammar has made sure that it came. */
export function answerOf<N extends StreamMessage["name"]>(answers: readonly StreamMessage[], name: N): Bodies[N] {
  const answer = answers.find((one) => one.name === name);
  if (answer === undefined) throw new Malformed(`an end without ${name}`);
  return answer.body as Bodies[N];
}

/** A stream whose opener has been answered: `opened` rejects when it fails first, or when its caller aborts. */
export interface Opening {
  readonly stream: ChannelStream;
  readonly opened: Promise<StreamMessage>;
  /** Resolves at Done, with all answers. */
  readonly done: Promise<readonly StreamMessage[]>;
}

/** One request that goes on after its first answer. An abort cancels it at any time. */
export function begin(inside: Inside, message: OpenMessage, subject: string, options: CallOptions = {}): Opening {
  const { signal } = options;
  const opened = Promise.withResolvers<StreamMessage>();
  const done = Promise.withResolvers<readonly StreamMessage[]>();
  opened.promise.catch(ignore);
  done.promise.catch(ignore);
  if (signal?.aborted === true) throw aborted(subject, signal);
  const answers: StreamMessage[] = [];
  const fail = (error: BulkheadError): void => {
    opened.reject(error);
    done.reject(error);
  };
  const stream = inside.channel.open(message, {
    subject,
    message: (answer) => {
      answers.push(answer);
      opened.resolve(answer);
    },
    end: (end) => {
      signal?.removeEventListener("abort", abort);
      if (end.how === "done") done.resolve(answers);
      else void inside.explain(end.error).then(fail);
    },
  });
  const abort = (): void => {
    const error = aborted(subject, signal);
    stream.cancel(error);
    fail(error);
  };
  signal?.addEventListener("abort", abort, { once: true });
  return { stream, opened: opened.promise, done: done.promise };
}

/** Cuts a lane into its records: u32 length, then the record. Holds at most one record. */
export class RecordReader<T> {
  readonly #read: (reader: WireReader) => T;
  #rest: Buffer = Buffer.alloc(0);

  constructor(read: (reader: WireReader) => T) {
    this.#read = read;
  }

  /** @throws Malformed for a record that is too long or is none. */
  *push(piece: Buffer): Generator<T> {
    let bytes = this.#rest.length === 0 ? piece : Buffer.concat([this.#rest, piece]);
    this.#rest = Buffer.alloc(0);
    while (bytes.length >= 4) {
      const length = bytes.readUInt32LE(0);
      if (length > MAX_RECORD_BYTES) throw new Malformed(`a record of ${length} bytes, at most ${MAX_RECORD_BYTES}`);
      if (bytes.length < 4 + length) break;
      const reader = new WireReader(bytes.subarray(4, 4 + length));
      const record = this.#read(reader);
      reader.finish();
      bytes = bytes.subarray(4 + length);
      yield record;
    }
    this.#rest = Buffer.from(bytes);
  }

  finish(): void {
    if (this.#rest.length > 0) throw new Malformed("a lane that ends within a record");
  }
}

/** The records of one request as they come; leaving the loop cancels it. */
export async function* records<T>(
  inside: Inside,
  message: OpenMessage,
  subject: string,
  read: (reader: WireReader) => T,
  options: CallOptions = {},
): AsyncGenerator<T, void, undefined> {
  const { stream, done } = begin(inside, message, subject, options);
  const reader = new RecordReader(read);
  try {
    for await (const piece of stream.out.readable()) yield* reader.push(piece as Buffer);
    if (options.signal?.aborted === true) throw aborted(subject, options.signal);
    await done;
    reader.finish();
  } catch (error) {
    if (error instanceof Malformed) inside.channel.violation(error);
    throw error instanceof Malformed ? await inside.channel.closed : error;
  } finally {
    stream.cancel();
  }
}

function ignore(): void {}
