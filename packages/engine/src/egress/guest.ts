import type { Duplex } from "node:stream";

/** How a program inside learns that it gets nothing: ECONNREFUSED, EHOSTUNREACH or EACCES. */
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
  refuse(how: Refusal): void;
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
}

/** The way out of one sandbox. */
export interface EgressSession {
  /** Ends all connections and asks nothing of the handler any more. The interface inside stays and leads nowhere. */
  close(): void;
  /** Settles when the session is over: undefined after `close`, else why the agent or the channel ended it. */
  readonly ended: Promise<Error | undefined>;
}

/** TCP connections of a sandbox that wait or are open, at once. */
export const MAX_CONNECTIONS = 256;
/** DNS messages of a sandbox that wait for their answer, at once. */
export const MAX_QUERIES = 64;
export const MAX_QUERY_BYTES = 4096;
/** What fits one packet of the interface. */
export const MAX_DATAGRAM_BYTES = 1452;

/** Where the interface inside is. On-link prefixes stand for a default route, which gVisor does not have; 127/8 and fe80/10 stay their own. */
export const GUEST_ADDRESSES = { interface: "eth0", ipv4: "10.0.0.2", ipv6: "fd00::2", resolver: "10.0.0.1" } as const;
