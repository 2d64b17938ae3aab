/**
 * Reads the name a TLS client asks for, from the first bytes it sends. It decides nothing about the handshake: what follows
 * is the server's to judge. Whatever this reader and a server could read differently is refused.
 */
export type HelloResult =
  /** The server name; null when the client names none. */
  | { readonly at: "read"; readonly serverName: string | null }
  /** More bytes are needed. */
  | { readonly at: "more" }
  | { readonly at: "malformed"; readonly why: string };

const HANDSHAKE = 22;
const CLIENT_HELLO = 1;
const RECORD_HEADER_BYTES = 5;
const MESSAGE_HEADER_BYTES = 4;
const RECORD_MAX_BYTES = 16_384;
/** With post-quantum key shares and padding a hello is 2 KiB; one with a client's large session ticket 10. */
const HELLO_MAX_BYTES = 16_384;
const SERVER_NAME = 0;
const HOST_NAME = 0;

class Malformed extends Error {}

class Reader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get done(): boolean {
    return this.#at === this.#bytes.length;
  }

  take(count: number): Buffer {
    if (this.#at + count > this.#bytes.length) throw new Malformed("a part of it is longer than the whole");
    this.#at += count;
    return this.#bytes.subarray(this.#at - count, this.#at);
  }

  number(bytes: number): number {
    return this.take(bytes).readUIntBE(0, bytes);
  }

  /** Bytes after their own length, which is itself `lengthBytes` long. */
  vector(lengthBytes: number): Buffer {
    return this.take(this.number(lengthBytes));
  }

  finish(what: string): void {
    if (!this.done) throw new Malformed(`bytes after the end of ${what}`);
  }
}

/** Whether the bytes can be the beginning of a TLS record with a handshake. */
export function looksLikeTls(bytes: Buffer): boolean {
  return bytes[0] === HANDSHAKE && (bytes.length < 2 || bytes[1] === 3);
}

/** The handshake's bytes, without the records they come in. @returns null when more are needed. */
function joinRecords(bytes: Buffer): Buffer | null {
  const parts: Buffer[] = [];
  let have = 0;
  let other = false;
  for (let at = 0; at + RECORD_HEADER_BYTES <= bytes.length;) {
    // Early data may follow the hello, in records of another kind.
    other = !looksLikeTls(bytes.subarray(at));
    if (other) break;
    const length = bytes.readUInt16BE(at + 3);
    if (length === 0 || length > RECORD_MAX_BYTES) throw new Malformed(`a record of ${length} bytes`);
    const part = bytes.subarray(at + RECORD_HEADER_BYTES, at + RECORD_HEADER_BYTES + length);
    parts.push(part);
    have += part.length;
    at += RECORD_HEADER_BYTES + length;
  }
  if (have < MESSAGE_HEADER_BYTES) return unlessOther(other);
  const hello = Buffer.concat(parts);
  if (hello[0] !== CLIENT_HELLO) throw new Malformed("a handshake that does not begin with the client's hello");
  const wanted = MESSAGE_HEADER_BYTES + hello.readUIntBE(1, 3);
  if (wanted > HELLO_MAX_BYTES) throw new Malformed(`a hello of ${wanted} bytes, more than ${HELLO_MAX_BYTES}`);
  if (have > wanted) throw new Malformed("more than the hello in its record");
  return have === wanted ? hello : unlessOther(other);
}

function unlessOther(other: boolean): null {
  if (other) throw new Malformed("another record within the hello");
  return null;
}

function readServerName(extension: Buffer): string {
  const outer = new Reader(extension);
  const list = new Reader(outer.vector(2));
  outer.finish("the server's name");
  if (list.number(1) !== HOST_NAME) throw new Malformed("a server's name of an unknown kind");
  const name = list.vector(2);
  list.finish("the list of server names");
  if (!name.every((byte) => byte > 0x20 && byte < 0x7f)) throw new Malformed("a server's name that is no text");
  return name.toString("latin1");
}

function readHello(hello: Buffer): string | null {
  const body = new Reader(hello.subarray(MESSAGE_HEADER_BYTES));
  body.take(2 + 32);
  body.vector(1);
  body.vector(2);
  body.vector(1);
  if (body.done) return null;
  const extensions = new Reader(body.vector(2));
  body.finish("the hello");
  const seen = new Set<number>();
  let serverName: string | null = null;
  while (!extensions.done) {
    const type = extensions.number(2);
    const content = extensions.vector(2);
    if (seen.has(type)) throw new Malformed(`extension ${type} twice`);
    seen.add(type);
    if (type === SERVER_NAME) serverName = readServerName(content);
  }
  return serverName;
}

/** @param bytes everything the client has sent so far. */
export function readClientHello(bytes: Buffer): HelloResult {
  try {
    const hello = joinRecords(bytes);
    if (hello !== null) return { at: "read", serverName: readHello(hello) };
    // Records of one byte each make 6 of 1, so this bounds what a slow client makes us hold.
    return bytes.length <= HELLO_MAX_BYTES * 2
      ? { at: "more" }
      : { at: "malformed", why: "a hello in too many pieces" };
  } catch (error) {
    if (error instanceof Malformed) return { at: "malformed", why: error.message };
    throw error;
  }
}

/** A fatal alert "access denied", in a record of its own: what programs show as such. */
export const ACCESS_DENIED_ALERT = Buffer.from([21, 3, 3, 0, 2, 2, 49]);
