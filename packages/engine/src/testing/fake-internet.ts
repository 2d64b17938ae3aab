import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { formatAddress, type Address } from "@bulkhead/contract";
import type { Outside, Resolved } from "../egress/outside.ts";

const LOOPBACK = "127.0.0.1";

/** What a test makes listen: it is told the port. */
export type Listener = Pick<Server, "listen" | "address" | "close" | "on">;

/**
 * An Internet of a test's own: names, and public addresses whose ports are servers on this host's loopback. It stands in for
 * the network alone: what connects and what answers are real.
 */
export class FakeInternet implements Outside, AsyncDisposable {
  /** Addresses by name; a name that is not in it does not exist. */
  readonly names = new Map<string, readonly string[]>();
  /** What the resolver was asked, in order: `A name`. */
  readonly asked: string[] = [];
  readonly own: Address[] = [];
  /** What TLS servers are checked against, in PEM. */
  readonly trusted: string[] = [];
  ttl = 60;
  readonly #ports = new Map<string, number>();
  readonly #stack = new AsyncDisposableStack();

  /** Puts a server at an address and port of this Internet. */
  async serve(address: string, port: number, server: Listener): Promise<void> {
    const open = new Set<Socket>();
    server.on("connection", (socket: Socket) => {
      open.add(socket);
      socket.on("error", () => undefined);
      socket.on("close", () => open.delete(socket));
    });
    server.listen(0, LOOPBACK);
    await once(server as Server, "listening");
    this.#ports.set(`tcp ${address} ${port}`, (server.address() as AddressInfo).port);
    this.#stack.defer(async () => {
      for (const socket of open) socket.destroy();
      server.close();
    });
  }

  /** A server that does with a connection what it is told. */
  async talk(address: string, port: number, act: (socket: Socket) => void): Promise<void> {
    await this.serve(address, port, createServer({ allowHalfOpen: true }, act));
  }

  async udp(address: string, port: number, answer: (payload: Buffer) => Buffer | null): Promise<void> {
    const socket = createSocket("udp4");
    socket.on("message", (payload, from) => {
      const back = answer(payload);
      if (back !== null) socket.send(back, from.port, from.address);
    });
    socket.bind(0, LOOPBACK);
    await once(socket, "listening");
    this.#ports.set(`udp ${address} ${port}`, socket.address().port);
    this.#stack.defer(() => void socket.close());
  }

  async resolve(name: string, family: 4 | 6): Promise<readonly Resolved[] | null> {
    this.asked.push(`${family === 4 ? "A" : "AAAA"} ${name}`);
    const addresses = this.names.get(name);
    if (addresses === undefined) return null;
    const fits = addresses.filter((address) => address.includes(":") === (family === 6));
    return fits.map((address) => ({ address, ttl: this.ttl }));
  }

  async connect(address: Address, port: number, signal: AbortSignal): Promise<Socket> {
    const target = this.#ports.get(`tcp ${formatAddress(address)} ${port}`);
    if (target === undefined) throw Object.assign(new Error("nothing is there"), { code: "ECONNREFUSED" });
    const socket = connect({ host: LOOPBACK, port: target, allowHalfOpen: true, noDelay: true, signal });
    await once(socket, "connect");
    return socket;
  }

  async openUdp(address: Address, port: number): Promise<UdpSocket> {
    const target = this.#ports.get(`udp ${formatAddress(address)} ${port}`);
    const socket = createSocket("udp4");
    if (target === undefined) throw new Error("nothing is there");
    socket.connect(target, LOOPBACK);
    await once(socket, "connect");
    return socket;
  }

  ownAddresses(): readonly Address[] {
    return this.own;
  }

  authorities(): readonly string[] {
    return this.trusted;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}
