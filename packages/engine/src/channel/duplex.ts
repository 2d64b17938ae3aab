import { Duplex } from "node:stream";
import type { ChannelStream } from "./stream.ts";

/**
 * A stream that is a connection, like a net.Socket: half-open allowed, and an error nobody listens for is not thrown at the
 * process. Destroyed before both directions have ended it breaks off; after that the rest of what was sent still arrives.
 *
 * @param done settles with the stream's end
 */
export function duplexOf(stream: ChannelStream, done: Promise<unknown>): Duplex {
  const readable = stream.out.readable();
  const writable = stream.in.writable();
  const duplex = new Duplex({
    allowHalfOpen: true,
    readableHighWaterMark: 1,
    writableHighWaterMark: 1,
    read: () => {
      readable.resume();
    },
    write: (chunk: Buffer, _encoding, written) => {
      if (writable.destroyed) written();
      else writable.write(chunk, (error) => written(error ?? null));
    },
    final: (ended) => {
      if (writable.destroyed) ended();
      else writable.end(() => ended());
    },
    destroy: (error, destroyed) => {
      if (!duplex.readableEnded || !duplex.writableFinished) stream.cancel();
      readable.destroy();
      writable.destroy();
      destroyed(error);
    },
  });
  duplex.on("error", ignore);
  readable.on("data", (piece: Buffer) => {
    if (!duplex.push(piece)) readable.pause();
  });
  readable.on("end", () => duplex.push(null));
  readable.on("error", (error) => duplex.destroy(error));
  readable.pause();
  // A connection that breaks after its reading side has ended says so nowhere else.
  done.catch((error: Error) => duplex.destroy(error));
  return duplex;
}

function ignore(): void {}
