import type { Duplex } from "node:stream";
import { MAX_QUERY_BYTES } from "../channel/wire.gen.ts";

const LENGTH_BYTES = 2;
const QUERY_MIN_BYTES = 12;

/**
 * DNS over TCP: each message has its length in two bytes before it. One is answered after the other; one that gets no answer, or
 * is none, ends the connection.
 */
export async function serveDns(
  connection: Duplex,
  answer: (message: Uint8Array) => Promise<Uint8Array | null>,
): Promise<void> {
  let rest: Buffer = Buffer.alloc(0);
  try {
    for await (const piece of connection) {
      rest = Buffer.concat([rest, piece as Buffer]);
      while (rest.length >= LENGTH_BYTES) {
        const length = rest.readUInt16BE(0);
        if (length < QUERY_MIN_BYTES || length > MAX_QUERY_BYTES) return;
        if (rest.length < LENGTH_BYTES + length) break;
        const told = await answer(rest.subarray(LENGTH_BYTES, LENGTH_BYTES + length));
        if (told === null) return;
        rest = rest.subarray(LENGTH_BYTES + length);
        const head = Buffer.alloc(LENGTH_BYTES);
        head.writeUInt16BE(told.length);
        await written(connection, Buffer.concat([head, told]));
      }
    }
    connection.end();
  } finally {
    if (!connection.writableEnded) connection.destroy();
  }
}

/** Resolves when there is room for more; rejects when the connection broke. */
function written(connection: Duplex, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    connection.write(bytes, (error) => (error === null || error === undefined ? resolve() : reject(error)));
  });
}
