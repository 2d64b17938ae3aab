import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { looksLikeTls, readClientHello } from "./client-hello.ts";

/** What a program's first bytes are. They are put back: whoever reads the connection next gets them first. */
export type Sniffed =
  | { readonly kind: "tls"; readonly serverName: string | null }
  | { readonly kind: "http" }
  /** Something that carries no name: why, in words. */
  | { readonly kind: "unknown"; readonly why: string }
  /** One side went away first. */
  | { readonly kind: "gone" };

/** Servers that speak first are known at once; this bounds what neither side says. An emulated, busy guest takes seconds. */
const FIRST_BYTES_MS = 60_000;
/** A hello comes in one or two pieces; each is read from the start again. */
const MAX_PIECES = 64;
const LONGEST_METHOD = 16;

const SERVER_SPEAKS_FIRST = "the server speaks first, so no name is said that could be checked";

function classify(bytes: Buffer): Sniffed | null {
  if (looksLikeTls(bytes)) {
    const hello = readClientHello(bytes);
    if (hello.at === "more") return null;
    if (hello.at === "read") return { kind: "tls", serverName: hello.serverName };
    return { kind: "unknown", why: `its TLS cannot be read: ${hello.why}` };
  }
  const start = bytes.subarray(0, LONGEST_METHOD + 1).toString("latin1");
  if (start.startsWith("PRI "))
    return { kind: "unknown", why: "it is HTTP/2 without TLS, whose names are not checked" };
  if (/^[A-Z-]+ /.test(start)) return { kind: "http" };
  if (/^[A-Z-]*$/.test(start) && start.length <= LONGEST_METHOD) return null;
  return { kind: "unknown", why: "it is neither TLS nor HTTP, so it says no name that could be checked" };
}

/**
 * Waits for the first bytes that a program sends on a connection. Nothing of them has left by then.
 * @param upstream connected already; that it speaks first is heard, not read.
 */
export async function sniff(inside: Duplex, upstream: Socket): Promise<Sniffed> {
  const { promise, resolve } = Promise.withResolvers<Sniffed>();
  const pieces: Buffer[] = [];
  using stack = new DisposableStack();
  const hear = (from: Duplex, event: string, act: () => void): void => {
    from.on(event, act);
    stack.defer(() => void from.off(event, act));
  };
  const read = (): void => {
    for (let piece = inside.read() as Buffer | null; piece !== null; piece = inside.read() as Buffer | null) {
      pieces.push(piece);
      const found = classify(Buffer.concat(pieces));
      if (found !== null) return resolve(found);
      if (pieces.length >= MAX_PIECES)
        return resolve({ kind: "unknown", why: "its first message is in too many pieces" });
    }
  };
  hear(inside, "readable", read);
  hear(inside, "end", () => {
    // Programs that try two addresses at once close the one they do not need; others only look whether a port is open.
    resolve(pieces.length === 0 ? { kind: "gone" } : { kind: "unknown", why: "it ended before it said a name" });
  });
  hear(inside, "close", () => resolve({ kind: "gone" }));
  hear(upstream, "readable", () => {
    if (upstream.readableLength > 0 && pieces.length === 0) resolve({ kind: "unknown", why: SERVER_SPEAKS_FIRST });
  });
  hear(upstream, "close", () => resolve({ kind: "gone" }));
  const timer = setTimeout(() => resolve({ kind: "unknown", why: "it said no name in time" }), FIRST_BYTES_MS);
  stack.defer(() => clearTimeout(timer));
  const found = await promise;
  if (pieces.length > 0 && !inside.destroyed && !inside.readableEnded) inside.unshift(Buffer.concat(pieces));
  return found;
}
