import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { formatAddress } from "@bulkhead/contract";
import type { EgressHandler, Refusal } from "../egress/guest.ts";
import { dnsQuery } from "./dns-query.ts";

/** Raised where a program inside would see connect(2) fail. */
export class ConnectFailed extends Error {
  readonly how: Refusal;

  constructor(how: Refusal) {
    super(`the connection was refused: ${how}`);
    this.how = how;
  }
}

const LOOPBACK = "127.0.0.1";

/** What asks an egress handler as the agent does, without an agent. Its connections are real sockets. */
export class HandMadeGuest implements AsyncDisposable {
  readonly #egress: EgressHandler;
  readonly #server: Server;
  readonly #waiting = new Map<number, (socket: Socket) => void>();
  readonly #open = new Set<Socket>();

  private constructor(egress: EgressHandler, server: Server) {
    this.#egress = egress;
    this.#server = server;
    server.on("connection", (socket) => {
      this.#open.add(socket);
      this.#waiting.get(socket.remotePort!)?.(socket);
    });
  }

  static async make(egress: EgressHandler): Promise<HandMadeGuest> {
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
    server.listen(0, LOOPBACK);
    await once(server, "listening");
    return new HandMadeGuest(egress, server);
  }

  /** @returns the program's end of a connection. @throws ConnectFailed */
  async connect(address: string, port: number, signal = new AbortController().signal): Promise<Socket> {
    const outcome = Promise.withResolvers<Socket>();
    this.#egress.connect({
      address,
      port,
      signal,
      accept: async () => {
        const [program, inside] = await this.#pair();
        outcome.resolve(program);
        return inside;
      },
      refuse: (how) => outcome.reject(new ConnectFailed(how)),
    });
    return outcome.promise;
  }

  /** A connection to the proxy's port. */
  async connectToProxy(): Promise<Socket> {
    const [near, inside] = await this.#pair();
    // As what the agent's connections are given out as, which have no such method.
    inside.destroySoon = () => void inside.end();
    this.#egress.proxy!(inside);
    inside.resume();
    return near;
  }

  /** A program's end of a connection, and the egress's. */
  async #pair(): Promise<readonly [Socket, Socket]> {
    const { port } = this.#server.address() as AddressInfo;
    const program = connect({ host: LOOPBACK, port, allowHalfOpen: true });
    program.on("error", () => undefined);
    this.#open.add(program);
    await once(program, "connect");
    const inside = await new Promise<Socket>((resolve) => {
      const early = [...this.#open].find((socket) => socket.remotePort === program.localPort);
      if (early === undefined) this.#waiting.set(program.localPort!, resolve);
      else resolve(early);
    });
    // Destroying is a reset, as the agent makes it.
    inside.on("close", () => {
      if (!inside.readableEnded || !inside.writableFinished) program.destroy();
    });
    return [program, inside];
  }

  /**
   * What a program's resolver asks of the sandbox's. @returns the addresses, or the answer's code: 3 for no such name.
   * `why` is the extended error's text.
   */
  async resolve(name: string, family: 4 | 6 = 4): Promise<{ addresses: string[]; rcode: number; why: string }> {
    const answer = Buffer.from((await this.#egress.query(dnsQuery(name, family === 4 ? 1 : 28, 1232), "tcp"))!);
    const count = answer.readUInt16BE(6);
    const rcode = answer[3]! & 0xf;
    let at = 12 + name.length + 2 + 4;
    const addresses: string[] = [];
    for (let i = 0; i < count; i++) {
      const data = answer.subarray(at + 12, at + 12 + answer.readUInt16BE(at + 10));
      addresses.push(formatAddress({ family, value: BigInt(`0x${data.toString("hex")}`) }));
      at += 12 + data.length;
    }
    return { addresses, rcode, why: answer.subarray(at + 11 + 6).toString() };
  }

  /** @returns the first answer to a datagram, or how it was refused. */
  async datagram(address: string, port: number, payload: Buffer): Promise<Buffer> {
    const outcome = Promise.withResolvers<Buffer>();
    this.#egress.datagram({
      address,
      port,
      sourcePort: 40_000,
      payload,
      reply: (answer) => {
        outcome.resolve(Buffer.from(answer));
        return true;
      },
      refuse: (how) => outcome.reject(new ConnectFailed(how)),
    });
    return outcome.promise;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#open) socket.destroy();
    this.#server.close();
  }
}
