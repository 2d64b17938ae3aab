import type { Duplex } from "node:stream";
import type { Refused } from "./policy.ts";

/**
 * How a program inside learns that it gets nothing: ECONNREFUSED, EHOSTUNREACH (ENETUNREACH over IPv6), or EACCES where its
 * kernel says that (IPv6) and as the second where not.
 */
export type Refusal = "reset" | "unreachable" | "prohibited";

/** A TCP connection that a program inside began. It waits until exactly one of `accept` and `refuse` is called, once. */
export interface AskedConnection {
  /** Canonical text of an IPv4 or IPv6 address. */
  readonly address: string;
  readonly port: number;
  /** Aborted when the program gave up before an answer. */
  readonly signal: AbortSignal;
  /**
   * Takes the connection; only now is it established for the program. Reading ends at the program's end of sending, `end()` is
   * the end towards it, and destroying resets it. Rejects when the program has given up.
   */
  accept(): Promise<Duplex>;
  /** @param refused why, for one who can be told more than `how`. */
  refuse(how: Refusal, refused?: Refused): void;
}

/** A UDP datagram that a program inside sent to anywhere but the resolver. */
export interface AskedDatagram {
  /** Canonical text of an IPv4 or IPv6 address. */
  readonly address: string;
  readonly port: number;
  readonly sourcePort: number;
  /** At most `MAX_DATAGRAM_BYTES`. */
  readonly payload: Uint8Array;
  /** Sends one datagram back, from where the program sent its own; may be called later and more than once. False: dropped. */
  reply(payload: Uint8Array): boolean;
  refuse(how: Refusal): void;
}

/** What programs inside ask of the outside. All of it is untrusted; sizes and counts are bounded before it comes here. */
export interface EgressHandler {
  connect(asked: AskedConnection): void;
  /** A DNS message, 12 to `MAX_QUERY_BYTES` bytes, as a program sent it to the sandbox's resolver. Null: it gets no answer. */
  query(message: Uint8Array, transport: "udp" | "tcp"): Promise<Uint8Array | null>;
  datagram(asked: AskedDatagram): void;
  /** A connection to the proxy's port at the resolver's address. Absent: there is no proxy. */
  readonly proxy?: (connection: Duplex) => void;
}

/** The way out of one sandbox. */
export interface EgressSession {
  /** Ends all connections and asks nothing of the handler any more. The interface inside stays and leads nowhere. */
  close(): void;
  /** Settles when the session is over: undefined after `close`, else why the agent or the channel ended it. */
  readonly ended: Promise<Error | undefined>;
}

/** At once, of one sandbox: TCP connections that wait or are open, and DNS messages that wait for their answer. */
export { MAX_CONNECTIONS, MAX_DATAGRAM_BYTES, MAX_QUERIES, MAX_QUERY_BYTES } from "../channel/wire.gen.ts";

/**
 * Addresses that are nobody's outside: 192.0.0.0/29 is for the ends of such tunnels (RFC 7335), the IPv6 one is a private
 * prefix. Datagrams to the resolver's ports other than 53 are refused inside.
 */
export const GUEST_ADDRESSES = {
  interface: "eth0",
  ipv4: "192.0.0.2",
  ipv6: "fd62:756c:6b68::2",
  resolver: "192.0.0.1",
} as const;

/** Where the resolver's address takes requests as an HTTP proxy does, if programs are told of one. Squid's port. */
export const PROXY_PORT = 3128;
