import type { Duplex } from "node:stream";
import { duplexOf } from "../channel/duplex.ts";
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
  const { stream, opened, done } = begin(inside, message, subject, options);
  const connection = duplexOf(stream, done);
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
