import type { Socket } from "node:dgram";
import type { Address } from "@bulkhead/contract";
import type { AskedDatagram } from "./guest.ts";
import type { Outside } from "./outside.ts";
import type { Rate } from "./rated.ts";

/** Conversations at once: each holds a socket and a port of the host. The one that was silent longest gives way. */
const MAX_FLOWS = 64;
/** Home routers forget a UDP conversation after about this. */
const IDLE_MS = 60_000;

interface Flow {
  readonly address: Address;
  readonly port: number;
  readonly socket: Promise<Socket>;
  /** How the program hears answers: by its last datagram. */
  asked: AskedDatagram;
  timer: NodeJS.Timeout;
}

/** UDP of one sandbox, already judged: a socket for each port inside and peer outside, which hears that peer alone. */
export class UdpFlows {
  readonly #outside: Outside;
  readonly #rate: Rate;
  /** Silent longest first. */
  readonly #flows = new Map<string, Flow>();

  constructor(outside: Outside, rate: Rate) {
    this.#outside = outside;
    this.#rate = rate;
  }

  async send(asked: AskedDatagram, address: Address): Promise<void> {
    if (!this.#rate.letLeave(asked.payload.length)) return;
    const key = `${asked.sourcePort} ${asked.address} ${asked.port}`;
    const flow = this.#flows.get(key) ?? this.#open(asked, address, key);
    flow.asked = asked;
    flow.timer.refresh();
    this.#flows.delete(key);
    this.#flows.set(key, flow);
    try {
      const socket = await flow.socket;
      if (this.#flows.get(key) === flow) socket.send(asked.payload);
    } catch {
      this.#close(key);
      asked.refuse("unreachable");
    }
  }

  #open(asked: AskedDatagram, address: Address, key: string): Flow {
    const oldest = this.#flows.size >= MAX_FLOWS ? this.#flows.keys().next().value : undefined;
    if (oldest !== undefined) this.#close(oldest);
    const timer = setTimeout(() => this.#close(key), IDLE_MS);
    const socket = this.#outside.openUdp(address, asked.port);
    const flow: Flow = { address, port: asked.port, socket, asked, timer };
    socket.then((opened) => {
      opened.on("message", (payload: Buffer) => {
        flow.timer.refresh();
        if (this.#rate.letEnter(payload.length)) flow.asked.reply(payload);
      });
      // A router's or the peer's own answer that nobody is there.
      opened.on("error", (error: NodeJS.ErrnoException) => {
        flow.asked.refuse(error.code === "ECONNREFUSED" ? "reset" : "unreachable");
      });
    }, ignore);
    return flow;
  }

  #close(key: string): void {
    const flow = this.#flows.get(key);
    if (flow === undefined) return;
    this.#flows.delete(key);
    clearTimeout(flow.timer);
    flow.socket.then((socket) => socket.close(), ignore);
  }

  /** Ends the conversations that are not allowed any more. */
  review(stays: (address: Address, port: number) => boolean): void {
    for (const [key, { address, port }] of this.#flows) if (!stays(address, port)) this.#close(key);
  }
}

function ignore(): void {}
