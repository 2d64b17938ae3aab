import { Agent, createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { type Duplex, duplexPair } from "node:stream";
import type { AskedConnection } from "./guest.ts";
import {
  answer,
  ask,
  framing,
  headersOf,
  HEADERS_MAX_BYTES,
  passed,
  rawResponse,
  refusalText,
  relay,
} from "./http-gate.ts";
import type { Refused } from "./policy.ts";

/** How the proxy gets to what it is asked for: judged as programs' own connections are. */
export interface Reach {
  /** @returns addresses to try, none where the name has none; or why it is denied, noted already. */
  addressesOf(host: string, port: number): Promise<readonly string[] | Refused>;
  connect(asked: AskedConnection): void;
}

/** A large answer has some dozen addresses; a program does not wait for that many to fail. */
const MAX_TRIED = 4;
const CONNECTED = "HTTP/1.1 200 Connection established\r\n\r\n";

interface Authority {
  readonly host: string;
  readonly port: number;
}

/** `example.com:443`, `[2001:db8::1]:443`. */
function authorityOf(text: string, otherwise: number | null): Authority | null {
  const match = /^(?:\[([0-9a-f:.]+)\]|([^\s:@/[\]]+))(?::(\d{1,5}))?$/i.exec(text);
  const port = match?.[3] === undefined ? otherwise : Number(match[3]);
  if (match === null || port === null || port < 1 || port > 65_535) return null;
  return { host: match[1] ?? match[2]!, port };
}

/** What a program reads when it was not connected: the status, and why. */
type Failure = readonly [status: number, text: string];

const FAILED: Failure = [502, "Bulkhead could not connect to it.\n"];
const NO_TARGET: Failure = [400, "Bulkhead cannot read what this request to its proxy is for.\n"];

/**
 * An HTTP proxy for programs that want one: CONNECT, and requests with an absolute URI. It decides nothing: what it is asked
 * for goes the way of a program's own connection, and what is denied there is answered 403 with the reason.
 */
export class ForwardProxy {
  readonly #reach: Reach;
  readonly #server = createServer({
    maxHeaderSize: HEADERS_MAX_BYTES,
    insecureHTTPParser: false,
    // A WebSocket through a proxy is asked for by CONNECT.
    shouldUpgradeCallback: () => false,
  });

  constructor(reach: Reach) {
    this.#reach = reach;
    const forward = (message: IncomingMessage, response: ServerResponse): void => void this.#forward(message, response);
    this.#server.on("request", forward);
    this.#server.on("checkContinue", forward);
    this.#server.on("connect", (message, inside, head) => void this.#connect(message, inside, head));
    this.#server.on("clientError", (_error, inside) => {
      if (inside.writable) inside.end(rawResponse(...NO_TARGET));
      else inside.destroy();
    });
  }

  /** Takes a program's connection over. */
  take(inside: Duplex): void {
    inside.on("error", ignore);
    this.#server.emit("connection", inside);
  }

  async #connect(message: IncomingMessage, inside: Duplex, head: Buffer): Promise<void> {
    const target = authorityOf(message.url ?? "", null);
    const accept = async (): Promise<Duplex> => {
      if (inside.destroyed) throw new Error("the program has gone");
      inside.write(CONNECTED);
      if (head.length > 0) inside.unshift(head);
      return inside;
    };
    const failure = target === null ? NO_TARGET : await this.#open(target, inside, accept);
    if (failure !== null) inside.end(rawResponse(...failure));
  }

  async #forward(message: IncomingMessage, response: ServerResponse): Promise<void> {
    const [, authority = "", path = "/"] = /^http:\/\/([^/?#]*)([/?].*)?$/i.exec(message.url ?? "") ?? [];
    const target = authorityOf(authority, 80);
    const hosts = headersOf(message).filter(([name]) => name.toLowerCase() === "host");
    const named = hosts.length === 1 && hosts[0]![1].toLowerCase() === authority.toLowerCase();
    // What the program writes to is `near`; `far` is taken as a program's connection is, and its requests are judged there.
    const [near, far] = duplexPair();
    for (const end of [near, far]) end.on("error", ignore);
    response.on("close", () => near.destroy());
    const failure =
      target === null || !named ? NO_TARGET : await this.#open(target, message.socket, () => Promise.resolve(far));
    if (failure !== null) return answer(message, response, ...failure);
    const agent = new Agent({ keepAlive: false });
    agent.createConnection = () => near;
    const headers = [...passed(message), ...framing(message)];
    const upstream = ask(message, { path: path.startsWith("?") ? `/${path}` : path }, agent, headers);
    if (upstream === null) return answer(message, response, ...NO_TARGET);
    relay(message, response, upstream, { persists: true });
  }

  /** @returns null once `accept` was called. */
  async #open({ host, port }: Authority, program: Duplex, accept: () => Promise<Duplex>): Promise<Failure | null> {
    const addresses = await this.#reach.addressesOf(host, port);
    if ("verdict" in addresses) return [403, refusalText(addresses)];
    let failure: Failure = addresses.length === 0 ? [502, `Bulkhead found no address for ${host}.\n`] : FAILED;
    for (const address of addresses.slice(0, MAX_TRIED)) {
      const outcome = await this.#try(address, port, program, accept);
      if (outcome === "taken") return null;
      if (outcome !== "failed") failure = [403, refusalText(outcome)];
    }
    return failure;
  }

  #try(
    address: string,
    port: number,
    program: Duplex,
    accept: () => Promise<Duplex>,
  ): Promise<"taken" | "failed" | Refused> {
    return new Promise((resolve) => {
      const given = new AbortController();
      const gone = (): void => given.abort();
      program.once("close", gone);
      const settled = (outcome: "taken" | "failed" | Refused): void => {
        program.off("close", gone);
        resolve(outcome);
      };
      this.#reach.connect({
        address,
        port,
        signal: given.signal,
        accept: () => {
          settled("taken");
          return accept();
        },
        refuse: (_how, refused) => settled(refused ?? "failed"),
      });
    });
  }
}

function ignore(): void {}
