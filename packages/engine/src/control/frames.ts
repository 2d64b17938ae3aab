import type { Socket } from "node:net";

/** What is said on a control socket: one byte that says what it is, four with its length (little endian), and that many bytes. */
export const Kind = {
  /** The first from a client, JSON: what is to be done. One connection does one thing. */
  request: 1,
  /** Bytes: a file's, a program's input or output. A client waits for `ack` before it sends more. */
  data: 2,
  /** Of a program's standard error. */
  errorData: 3,
  /** No more data comes from the client. */
  end: 4,
  /** JSON from the client to what it has begun: a signal, a terminal's size. */
  control: 5,
  /** The last data has been taken. */
  ack: 6,
  /** It is under way. */
  started: 7,
  /** JSON: a part of the answer. */
  item: 8,
  /** JSON, the last. */
  result: 9,
  /** JSON of an error, the last. */
  failure: 10,
} as const;

export type Kind = (typeof Kind)[keyof typeof Kind];

export interface Frame {
  readonly kind: Kind;
  readonly body: Buffer;
}

export const GENERATION = 1;
export const MAX_DATA_BYTES = 256 * 1024;
/** A command line as long as the kernel takes one, and a listing's part. */
export const MAX_JSON_BYTES = 4 * 1024 * 1024;
const MAX_CONTROL_BYTES = 1024;
const HEAD_BYTES = 5;

const MOST: Readonly<Record<Kind, number>> = {
  [Kind.request]: MAX_JSON_BYTES,
  [Kind.data]: MAX_DATA_BYTES,
  [Kind.errorData]: MAX_DATA_BYTES,
  [Kind.end]: 0,
  [Kind.control]: MAX_CONTROL_BYTES,
  [Kind.ack]: 0,
  [Kind.started]: 0,
  [Kind.item]: MAX_JSON_BYTES,
  [Kind.result]: MAX_JSON_BYTES,
  [Kind.failure]: MAX_JSON_BYTES,
};

/** The other end said what this protocol does not have. */
export class Unreadable extends Error {
  override readonly name = "Unreadable";
}

/** The other end has gone. */
export class Gone extends Error {
  override readonly name = "Gone";
  constructor() {
    super("the other end of the control socket has gone");
  }
}

function headOf(bytes: Buffer): { readonly kind: Kind; readonly length: number } {
  const kind = bytes.readUInt8(0);
  const length = bytes.readUInt32LE(1);
  const most = Object.hasOwn(MOST, kind) ? MOST[kind as Kind] : undefined;
  if (most === undefined) throw new Unreadable(`there is no kind of frame ${kind}`);
  if (length > most) throw new Unreadable(`a frame of kind ${kind} has ${length} bytes, at most ${most}`);
  return { kind: kind as Kind, length };
}

/**
 * The frames of a stream of bytes. Held at a time is one frame, judged by its head before anything is kept for it, and what
 * came with its end. @throws Unreadable
 */
export async function* frames(source: AsyncIterable<Buffer>): AsyncGenerator<Frame, void, undefined> {
  let parts: Buffer[] = [];
  let held = 0;
  let wanted = HEAD_BYTES;
  for await (const piece of source) {
    parts.push(piece);
    held += piece.length;
    if (held < wanted) continue;
    let bytes = parts.length === 1 ? piece : Buffer.concat(parts, held);
    for (;;) {
      wanted = HEAD_BYTES;
      if (bytes.length < HEAD_BYTES) break;
      const { kind, length } = headOf(bytes);
      wanted = HEAD_BYTES + length;
      if (bytes.length < wanted) break;
      yield { kind, body: bytes.subarray(HEAD_BYTES, wanted) };
      bytes = bytes.subarray(wanted);
    }
    parts = [bytes];
    held = bytes.length;
  }
  if (held > 0) throw new Unreadable("the stream ends within a frame");
}

export function frame(kind: Kind, body: Uint8Array = new Uint8Array()): Buffer {
  if (body.length > MOST[kind]) throw new Unreadable(`a frame of kind ${kind} cannot have ${body.length} bytes`);
  const bytes = Buffer.allocUnsafe(HEAD_BYTES + body.length);
  bytes.writeUInt8(kind, 0);
  bytes.writeUInt32LE(body.length, 1);
  bytes.set(body, HEAD_BYTES);
  return bytes;
}

/** @throws Unreadable */
export function jsonOf({ body }: Frame): unknown {
  try {
    return JSON.parse(body.toString("utf8"));
  } catch (cause) {
    throw new Unreadable("a frame that is to be JSON is none", { cause });
  }
}

/** One end of a connection, as both sides write to it. */
export class Peer {
  readonly #socket: Socket;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Resolves when the other end takes more; what it does not read is never piled up. @throws Gone */
  async send(kind: Kind, body?: Uint8Array): Promise<void> {
    const socket = this.#socket;
    if (!socket.writable) throw new Gone();
    if (socket.write(frame(kind, body))) return;
    await new Promise<void>((resolve, reject) => {
      const done = (): void => {
        socket.off("drain", done).off("close", done);
        if (socket.writable) resolve();
        else reject(new Gone());
      };
      socket.on("drain", done).on("close", done);
    });
  }

  json(kind: Kind, value: unknown): Promise<void> {
    return this.send(kind, Buffer.from(JSON.stringify(value)));
  }

  /** Bytes of any length. */
  async data(kind: typeof Kind.data | typeof Kind.errorData, bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; at += MAX_DATA_BYTES)
      await this.send(kind, bytes.subarray(at, at + MAX_DATA_BYTES));
  }
}
