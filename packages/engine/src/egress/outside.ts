import { Resolver } from "node:dns/promises";
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { connect, type Socket } from "node:net";
import { networkInterfaces } from "node:os";
import { formatAddress, parseAddress, type Address } from "@bulkhead/contract";

export interface Resolved {
  readonly address: string;
  /** Seconds. */
  readonly ttl: number;
}

/** What lies outside of the host: its resolver, its routes. Everything that was judged goes through here. */
export interface Outside {
  /**
   * @param name canonical. @returns nothing when it has no address of the family, null when there is no such name.
   * @throws when the resolver does not answer.
   */
  resolve(name: string, family: 4 | 6, signal: AbortSignal): Promise<readonly Resolved[] | null>;
  /** Connects to exactly that address. Rejects with the code of connect(2). */
  connect(address: Address, port: number, signal: AbortSignal): Promise<Socket>;
  /** A socket that sends to and hears from that address and port alone. */
  openUdp(address: Address, port: number): Promise<UdpSocket>;
  /** The host's addresses, as they are now. */
  ownAddresses(): readonly Address[];
  /** Certificates, in PEM, that TLS servers are checked against. Absent: those that this host trusts. */
  authorities?(): readonly string[];
}

/** A resolver in the same city answers in 30 ms; three tries fit into what programs wait for, 5 s a try. */
const RESOLVE_TRY_MS = 2000;
const RESOLVE_TRIES = 2;
/** The kernel's own bound is two minutes, longer than most programs wait. */
const CONNECT_MS = 30_000;
/** A dead peer is found out after about this and some tries. */
const KEEP_ALIVE_MS = 60_000;
/** Reading the interfaces takes 0.1 ms, and addresses change seldom. */
const OWN_ADDRESSES_MS = 2000;

const NO_SUCH_NAME: ReadonlySet<string> = new Set(["ENOTFOUND"]);
const NO_SUCH_RECORD: ReadonlySet<string> = new Set(["ENODATA"]);

/** The host's resolver and routes. Proxy variables mean nothing here: what was judged is what is connected to. */
export class HostOutside implements Outside {
  readonly #servers: readonly string[];
  #own: { readonly at: number; readonly addresses: readonly Address[] } | undefined;

  /** @param servers `192.0.2.53`, `192.0.2.53:5353`, `[2001:db8::53]:53`; empty: those of the host's /etc/resolv.conf. */
  constructor(servers: readonly string[] = []) {
    this.#servers = servers;
  }

  async resolve(name: string, family: 4 | 6, signal: AbortSignal): Promise<readonly Resolved[] | null> {
    // One for each question: it reads /etc/resolv.conf as it is now, and can be called off by itself.
    const resolver = new Resolver({ timeout: RESOLVE_TRY_MS, tries: RESOLVE_TRIES });
    if (this.#servers.length > 0) resolver.setServers(this.#servers);
    const cancel = (): void => resolver.cancel();
    signal.addEventListener("abort", cancel, { once: true });
    try {
      return await (family === 4 ? resolver.resolve4(name, { ttl: true }) : resolver.resolve6(name, { ttl: true }));
    } catch (error) {
      const { code = "" } = error as NodeJS.ErrnoException;
      if (NO_SUCH_NAME.has(code)) return null;
      if (NO_SUCH_RECORD.has(code)) return [];
      throw error;
    } finally {
      signal.removeEventListener("abort", cancel);
    }
  }

  async connect(address: Address, port: number, signal: AbortSignal): Promise<Socket> {
    const { family } = address;
    const host = formatAddress(address);
    // An address is not looked up; `signal` ends the attempt and, after it, the connection.
    const socket = connect({ host, port, family, noDelay: true, allowHalfOpen: true, autoSelectFamily: false, signal });
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    const opened = Promise.withResolvers<void>();
    const timer = setTimeout(() => socket.destroy(Object.assign(new Error(), { code: "ETIMEDOUT" })), CONNECT_MS);
    socket.once("connect", opened.resolve);
    socket.once("error", opened.reject);
    try {
      await opened.promise;
    } finally {
      clearTimeout(timer);
    }
    socket.off("error", opened.reject);
    return socket;
  }

  async openUdp(address: Address, port: number): Promise<UdpSocket> {
    const socket = createSocket(address.family === 4 ? "udp4" : "udp6");
    const opened = Promise.withResolvers<void>();
    socket.once("connect", opened.resolve);
    socket.once("error", opened.reject);
    socket.connect(port, formatAddress(address));
    try {
      await opened.promise;
    } catch (error) {
      socket.close();
      throw error;
    }
    socket.off("error", opened.reject);
    return socket;
  }

  ownAddresses(): readonly Address[] {
    const now = performance.now();
    if (this.#own === undefined || now - this.#own.at > OWN_ADDRESSES_MS) {
      const all = Object.values(networkInterfaces()).flatMap((infos) => infos ?? []);
      const addresses = all.flatMap(({ address }) => parseAddress(address.replace(/%.*$/, "")) ?? []);
      this.#own = { at: now, addresses };
    }
    return this.#own.addresses;
  }
}
