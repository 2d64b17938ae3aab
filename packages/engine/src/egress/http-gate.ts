import {
  Agent,
  createServer,
  request,
  STATUS_CODES,
  type ClientRequest,
  type IncomingMessage,
  type OutgoingMessage,
  type ServerResponse,
} from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { pipeline } from "node:stream/promises";
import { canonicalName } from "@bulkhead/contract";
import type { Refused } from "./policy.ts";
import { splice } from "./splice.ts";

/** An HTTP connection, TLS already taken off, whose address was judged and whose server is connected. */
export interface HttpFlow {
  readonly upstream: Socket;
  /** Judges the name that a request is for, and notes it when it is denied. Null: it may go on. */
  judge(name: string): Refused | null;
  /** Notes a request that says no name that could be judged. */
  deny(name: string | null, why: string): Refused;
  /** What the edge makes of a request's headers; absent where it changes none. */
  readonly dress?: Dress;
}

export interface Dress {
  /** The headers as they leave; trailers too. */
  headers(given: Headers): Headers;
  /** Whether a request may say it in its trailers. */
  allowsTrailer(name: string): boolean;
}

/** Browsers with large cookies stay below this. */
export const HEADERS_MAX_BYTES = 65_536;

/** What concerns one connection alone (RFC 9110, 7.6.1). The framing is made anew by both ends' own rules. */
const HOP_BY_HOP: ReadonlySet<string> = new Set([
  "connection",
  "keep-alive",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "http2-settings",
]);
/** What a trailer may not say, because it is over by then (RFC 9110, 6.5.1). */
const FRAMING: ReadonlySet<string> = new Set([...HOP_BY_HOP, "content-length", "host", "authorization", "cookie"]);
const NO_TRACE = "the answer to a TRACE request would say the headers that are added outside of the sandbox";
/** Methods whose requests have no body unless they say so. */
const BODILESS: ReadonlySet<string> = new Set(["GET", "HEAD", "DELETE", "OPTIONS", "TRACE"]);

export type Headers = readonly (readonly [name: string, value: string])[];

export function headersOf(message: IncomingMessage, raw = message.rawHeaders): Headers {
  return Array.from({ length: raw.length / 2 }, (_, i) => [raw[2 * i]!, raw[2 * i + 1]!] as const);
}

export function passed(message: IncomingMessage): Headers {
  const nominated = new Set((message.headers.connection ?? "").toLowerCase().split(/[\s,]+/));
  // The connection's own headers can name others, but never those that say where a message goes and ends.
  for (const kept of ["host", "content-length"]) nominated.delete(kept);
  return headersOf(message).filter(
    ([name]) => !HOP_BY_HOP.has(name.toLowerCase()) && !nominated.has(name.toLowerCase()),
  );
}

/** An agent of one connection that is there already. */
class OneConnection extends Agent {
  #socket: Socket | null;

  constructor(socket: Socket) {
    super({ keepAlive: true, maxSockets: 1 });
    this.#socket = socket;
  }

  override createConnection(
    _options: unknown,
    callback?: (error: Error | null, socket: Duplex) => void,
  ): Duplex | null | undefined {
    const socket = this.#socket;
    this.#socket = null;
    if (socket !== null && !socket.destroyed) return socket;
    // A server that has closed is not connected to again: the program learns it as it would without us.
    callback?.(new Error("the server has closed the connection"), socket!);
    return undefined;
  }
}

interface Held {
  readonly flow: HttpFlow;
  readonly agent: Agent;
  /** Answers under way. */
  answering: number;
}

interface Target {
  readonly name: string;
  readonly path: string;
}

/** @returns whom a request is for, by its Host header and, when it is there, its absolute URI; a text why it is refused. */
function targetOf(message: IncomingMessage): Target | string {
  const hosts = headersOf(message).filter(([name]) => name.toLowerCase() === "host");
  const host = hosts[0]?.[1] ?? "";
  if (hosts.length !== 1) return `it has ${hosts.length} Host headers`;
  const url = message.url ?? "";
  const absolute = /^https?:\/\/([^/?#]*)([/?].*)?$/i.exec(url);
  if (absolute === null && !url.startsWith("/") && url !== "*") return "its target is neither a path nor an HTTP URI";
  if (absolute !== null && absolute[1]!.toLowerCase() !== host.toLowerCase()) {
    return "its Host header and its URI name different hosts";
  }
  const name = canonicalName(host.replace(/:\d{1,5}$/, ""));
  if (name === null) return "its Host header is no name of a host";
  const path = absolute === null ? url : (absolute[2] ?? "/");
  return { name, path: path.startsWith("?") ? `/${path}` : path };
}

export function refusalText(refused: Pick<Refused, "why" | "allow">): string {
  const next = refused.allow === null ? "" : `To allow it: --network allow:${refused.allow}\n`;
  return `Bulkhead did not let this out of the sandbox: ${refused.why}.\n${next}`;
}

export function rawResponse(status: number, text: string): string {
  const head = `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nContent-Type: text/plain; charset=utf-8\r\n`;
  return `${head}Content-Length: ${Buffer.byteLength(text)}\r\nConnection: close\r\n\r\n${text}`;
}

/**
 * Lets HTTP/1.1 through request by request: each is read by Node's strict parser, judged by its own Host, and
 * written anew, so that no server sees a request that was not judged, whatever a program writes. What is left of a
 * connection after an upgrade to WebSocket is not read any more.
 */
export class HttpGate {
  readonly #flows = new WeakMap<Duplex, Held>();
  readonly #server = createServer({
    maxHeaderSize: HEADERS_MAX_BYTES,
    insecureHTTPParser: false,
    // Others, h2c above all, are answered by the server as if they had not been offered.
    shouldUpgradeCallback: isWebSocket,
  });

  constructor() {
    const serve = (message: IncomingMessage, response: ServerResponse): void => this.#serve(message, response);
    this.#server.on("request", serve);
    this.#server.on("checkContinue", serve);
    this.#server.on("upgrade", (message, inside, head) => this.#upgrade(message, inside, head));
    this.#server.on("connect", (message, inside) => this.#refuseConnect(message, inside));
    this.#server.on("clientError", (_error, inside) => {
      if (inside.writable) inside.end(rawResponse(400, "Bulkhead cannot read this HTTP request.\n"));
      else inside.destroy();
    });
  }

  /** Takes the connection over. */
  take(inside: Duplex, flow: HttpFlow): void {
    const held: Held = { flow, agent: new OneConnection(flow.upstream), answering: 0 };
    this.#flows.set(inside, held);
    inside.on("close", () => {
      held.agent.destroy();
      flow.upstream.destroy();
    });
    flow.upstream.on("close", () => {
      if (held.answering === 0) inside.end();
    });
    this.#server.emit("connection", inside);
  }

  #judged(message: IncomingMessage): { readonly target: Target; readonly held: Held } | Refused {
    const held = this.#flows.get(message.socket)!;
    const target = targetOf(message);
    if (typeof target === "string") return held.flow.deny(null, target);
    // Its answer is the request as it arrived, what the edge added included.
    if (held.flow.dress !== undefined && message.method === "TRACE") return held.flow.deny(target.name, NO_TRACE);
    return held.flow.judge(target.name) ?? { target, held };
  }

  #serve(message: IncomingMessage, response: ServerResponse): void {
    response.sendDate = false;
    const judged = this.#judged(message);
    if ("verdict" in judged) return refuse(message, response, judged);
    const { held, target } = judged;
    const { dress } = held.flow;
    const upstream = ask(message, target, held.agent, [...dressed(message, held.flow), ...framing(message)]);
    if (upstream === null) return void message.socket.destroy();
    held.answering++;
    response.on("close", () => {
      held.answering--;
      if (held.answering === 0 && held.flow.upstream.destroyed) message.socket.end();
    });
    relay(message, response, upstream, dress && { dress });
  }

  #upgrade(message: IncomingMessage, inside: Duplex, head: Buffer): void {
    const judged = this.#judged(message);
    if ("verdict" in judged) return void inside.end(rawResponse(403, refusalText(judged)));
    if (!isWebSocket(message)) return void inside.destroy();
    const upgrade: Headers = [
      ["Connection", "Upgrade"],
      ["Upgrade", "websocket"],
    ];
    const upstream = ask(message, judged.target, judged.held.agent, [
      ...dressed(message, judged.held.flow),
      ...upgrade,
    ]);
    if (upstream === null) return void inside.destroy();
    upstream.on("upgrade", (answer, socket, first) => {
      inside.write(responseHead(answer, headersOf(answer)));
      if (first.length > 0) socket.unshift(first);
      if (head.length > 0) inside.unshift(head);
      splice(inside, socket as Socket);
    });
    upstream.on("response", (answer) => {
      inside.write(responseHead(answer, [...passed(answer), ["Connection", "close"]]));
      answer.pipe(inside);
    });
    upstream.on("error", () => inside.destroy());
    upstream.end();
  }

  #refuseConnect(message: IncomingMessage, inside: Duplex): void {
    const { flow } = this.#flows.get(message.socket)!;
    const refused = flow.deny(null, "it asks a proxy to connect on, which no rule for a name covers");
    inside.end(rawResponse(403, refusalText(refused)));
  }
}

function dressed(message: IncomingMessage, { dress }: HttpFlow): Headers {
  return dress?.headers(passed(message)) ?? passed(message);
}

/** @returns null for what our parser lets through and our writer does not. */
export function ask(
  message: IncomingMessage,
  { path }: Pick<Target, "path">,
  agent: Agent,
  headers: Headers,
): ClientRequest | null {
  const { method = "GET" } = message;
  const options = { agent, method, path, headers: headers.flat(), setHost: false, maxHeaderSize: HEADERS_MAX_BYTES };
  return attempt(() => request(options));
}

interface RelayOptions {
  readonly dress?: Dress;
  /** The program's connection outlives the server's. */
  readonly persists?: boolean;
}

/**
 * Carries a request that was asked anew and its answer. Whatever fails resets the program's connection, which is what it would
 * have seen without us.
 */
export function relay(
  message: IncomingMessage,
  response: ServerResponse,
  upstream: ClientRequest,
  { dress, persists = false }: RelayOptions = {},
): void {
  const fail = (): void => void message.socket.destroy();
  upstream.on("error", fail);
  upstream.on("continue", () => response.writeContinue());
  upstream.on("response", (answer) => {
    const close: Headers = !persists && says(answer, "connection", "close") ? [["Connection", "close"]] : [];
    const headers = [...passed(answer), ...close].flat();
    if (attempt(() => response.writeHead(answer.statusCode!, answer.statusMessage!, headers)) === null) return fail();
    response.flushHeaders();
    pipeline(answer, response, { end: false }).then(() => finish(answer, response), fail);
  });
  response.on("close", () => {
    if (!response.writableFinished) upstream.destroy();
  });
  message.pipe(upstream, { end: false });
  message.on("end", () => finish(message, upstream, dress));
}

/** Ends a message that was carried, with its trailers. */
function finish(from: IncomingMessage, to: OutgoingMessage, dress?: Dress): void {
  const trailers = headersOf(from, from.rawTrailers).filter(
    ([name]) => !FRAMING.has(name.toLowerCase()) && dress?.allowsTrailer(name) !== false,
  );
  // Those that our parser lets through and our writer does not are left out with the rest.
  if (trailers.length > 0)
    attempt(() => to.addTrailers(trailers.map(([name, value]): [string, string] => [name, value])));
  to.end();
}

function says(message: IncomingMessage, header: "connection" | "upgrade", token: string): boolean {
  return (message.headers[header] ?? "")
    .toLowerCase()
    .split(/[\s,]+/)
    .includes(token);
}

function isWebSocket(message: IncomingMessage): boolean {
  return says(message, "upgrade", "websocket");
}

function attempt<T>(act: () => T): T | null {
  try {
    return act();
  } catch {
    return null;
  }
}

function responseHead(answer: IncomingMessage, headers: Headers): string {
  const lines = headers.map(([name, value]) => `${name}: ${value}\r\n`).join("");
  return `HTTP/1.1 ${answer.statusCode} ${answer.statusMessage}\r\n${lines}\r\n`;
}

export function framing(message: IncomingMessage): Headers {
  if (message.headers["transfer-encoding"] !== undefined) return [["Transfer-Encoding", "chunked"]];
  const silent = message.headers["content-length"] === undefined && !BODILESS.has(message.method ?? "");
  return silent ? [["Content-Length", "0"]] : [];
}

function refuse(message: IncomingMessage, response: ServerResponse, refused: Refused): void {
  answer(message, response, 403, refusalText(refused));
}

/** Answers in place of the server, which is asked nothing. */
export function answer(message: IncomingMessage, response: ServerResponse, status: number, text: string): void {
  message.resume();
  response.writeHead(status, {
    "content-type": "text/plain; charset=utf-8",
    "content-length": Buffer.byteLength(text),
    connection: "close",
  });
  response.end(text);
}
