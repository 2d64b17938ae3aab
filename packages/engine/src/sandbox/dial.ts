import { Duplex, type Readable, type Writable } from "node:stream";
import type { OpenMessage } from "../channel/grammar.ts";
import { begin, type CallOptions, type Inside } from "./calls.ts";
import { type GuestPath, pathBytes, quote, whole } from "./names.ts";

const MAX_PORT = 65_535;
const LOOPBACK = "127.0.0.1";

/** A TCP port, by default on 127.0.0.1 inside, or a Unix socket inside. */
export type DialTarget =
  | number
  | { readonly port: number; readonly address?: string }
  | { readonly unix: GuestPath; readonly user?: string };

/**
 * Connects to a server inside. Resolves when it has accepted; rejects with PORT_CLOSED when it refused. Either side can end
 * its own direction first. `signal` also ends a connection that is open.
 */
export async function dial(inside: Inside, target: DialTarget, options: CallOptions = {}): Promise<Duplex> {
  const { message, subject } = request(target);
  const { stream, opened } = begin(inside, message, subject, options);
  const connection = join(stream.out.readable(), stream.in.writable(), () => stream.cancel());
  await opened;
  return connection;
}

function request(target: DialTarget): { readonly message: OpenMessage; readonly subject: string } {
  if (typeof target === "object" && "unix" in target) {
    const body = { path: pathBytes(target.unix), user: target.user ?? "" };
    return { message: { name: "DialUnix", body }, subject: `socket ${quote(target.unix)}` };
  }
  const { port, address = LOOPBACK } = typeof target === "number" ? { port: target } : target;
  const body = { address, port: whole(port, "port", 1, MAX_PORT) };
  return { message: { name: "DialTcp", body }, subject: `port ${port} at ${quote(address)}` };
}

/** Like a net.Socket: half-open allowed, and an error nobody listens for is not thrown at the process. */
function join(readable: Readable, writable: Writable, cancel: () => void): Duplex {
  const duplex = new Duplex({
    allowHalfOpen: true,
    readableHighWaterMark: 1,
    writableHighWaterMark: 1,
    read: () => {
      readable.resume();
    },
    write: (chunk: Buffer, _encoding, done) => {
      if (writable.destroyed) done();
      else writable.write(chunk, (error) => done(error ?? null));
    },
    final: (done) => {
      if (writable.destroyed) done();
      else writable.end(() => done());
    },
    destroy: (error, done) => {
      cancel();
      readable.destroy();
      writable.destroy();
      done(error);
    },
  });
  duplex.on("error", ignore);
  readable.on("data", (piece: Buffer) => {
    if (!duplex.push(piece)) readable.pause();
  });
  readable.on("end", () => duplex.push(null));
  readable.on("error", (error) => duplex.destroy(error));
  readable.pause();
  return duplex;
}

function ignore(): void {}
