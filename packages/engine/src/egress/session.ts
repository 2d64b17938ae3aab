import { BulkheadError, formatAddress } from "@bulkhead/contract";
import type { Duplex } from "node:stream";
import { Malformed, type WireReader, WireWriter } from "../channel/codec.ts";
import { duplexOf } from "../channel/duplex.ts";
import type { ChannelStream } from "../channel/stream.ts";
import {
  type EgressReply,
  EgressReplyKind,
  type EgressRequest,
  EgressRequestKind,
  MAX_CONNECTIONS,
  MAX_DATAGRAM_BYTES,
  MAX_QUERIES,
  MAX_QUERY_BYTES,
  readEgressRequest,
  Refusal as RefusalNumber,
  writeEgressReply,
} from "../channel/wire.gen.ts";
import { begin, type CallOptions, type Inside, RecordReader } from "../sandbox/calls.ts";
import { serveDns } from "./dns-stream.ts";
import {
  type AskedConnection,
  type EgressHandler,
  type EgressSession,
  GUEST_ADDRESSES,
  PROXY_PORT,
  type Refusal,
} from "./guest.ts";
import { Windows } from "./windows.ts";

const DNS_PORT = 53;
/** A DNS message's header. */
const QUERY_MIN_BYTES = 12;
/** What answers and datagrams may wait in for the agent to read; more of them are dropped, as on any network. */
const WAITING_MAX_BYTES = 1024 * 1024;
const NOTHING: EgressReply = {
  kind: 0,
  id: 0,
  refusal: 0,
  address: new Uint8Array(),
  port: 0,
  sourcePort: 0,
  payload: new Uint8Array(),
};

/** A connection that waits for its answer, or is open. */
interface Pending {
  readonly controller: AbortController;
  answered: boolean;
}

type State = { readonly at: "open" } | { readonly at: "closed" };

/**
 * Opens the way out of a sandbox. From now on `handler` is asked; before it is there nothing that programs send is answered.
 *
 * @throws BulkheadError RUNTIME_FAILED when the sandbox has no interface for it, ABORTED, SANDBOX_GONE, CHANNEL_CLOSED
 */
export async function openEgress(
  inside: Inside,
  handler: EgressHandler,
  options: CallOptions = {},
): Promise<EgressSession> {
  const message = { name: "OpenEgress", body: { resolver: GUEST_ADDRESSES.resolver } } as const;
  const opening = new AbortController();
  const abort = (): void => opening.abort(options.signal?.reason);
  options.signal?.addEventListener("abort", abort, { once: true });
  if (options.signal?.aborted === true) abort();
  const { stream, opened, done } = begin(inside, message, "the way out of the sandbox", { signal: opening.signal });
  const session = new Session(inside, stream, handler);
  void done.then(
    () => session.over(new Error("the agent ended it")),
    (error: Error) => session.over(error),
  );
  try {
    await opened;
  } catch (error) {
    throw explained(error);
  } finally {
    // Later it is no longer the opening that would be called off.
    options.signal?.removeEventListener("abort", abort);
  }
  return session;
}

function explained(error: unknown): unknown {
  const told = ["ABORTED", "SANDBOX_GONE", "CHANNEL_CLOSED", "CHANNEL_PROTOCOL"];
  if (!(error instanceof BulkheadError) || told.includes(error.code)) return error;
  return new BulkheadError("RUNTIME_FAILED", {
    what: "the sandbox could not be given a way out",
    why: error.why ?? error.message,
    next: "create it without a network policy, or look at the host's /dev/net/tun",
    cause: error,
  });
}

/** The host's end. Everything that comes in is hostile: what an honest agent would not say ends the sandbox. */
class Session implements EgressSession {
  readonly #inside: Inside;
  readonly #stream: ChannelStream;
  readonly #handler: EgressHandler;
  readonly #connections = new Map<number, Pending>();
  readonly #streams = new Set<ChannelStream>();
  readonly #windows = new Windows();
  readonly #ended = Promise.withResolvers<Error | undefined>();
  #queries = 0;
  #waitingBytes = 0;
  #state: State = { at: "open" };

  constructor(inside: Inside, stream: ChannelStream, handler: EgressHandler) {
    this.#inside = inside;
    this.#stream = stream;
    this.#handler = handler;
    const reader = new RecordReader((record: WireReader) => readEgressRequest(record));
    const take = (piece: Buffer): void => {
      if (this.#state.at === "closed") return;
      for (const request of reader.push(piece)) this.#request(request);
    };
    stream.out.consume(take, () => undefined);
  }

  get ended(): Promise<Error | undefined> {
    return this.#ended.promise;
  }

  close(): void {
    this.#stream.cancel();
    this.over(undefined);
  }

  over(why: Error | undefined): void {
    if (this.#state.at === "closed") return;
    this.#state = { at: "closed" };
    for (const { controller } of this.#connections.values()) controller.abort();
    this.#connections.clear();
    for (const stream of this.#streams) stream.cancel(new Error("the way out of the sandbox was closed"));
    this.#ended.resolve(why);
  }

  /** @throws Malformed, which ends the sandbox. */
  #request(request: EgressRequest): void {
    switch (request.kind) {
      case EgressRequestKind.connect:
        this.#connect(request);
        return;
      case EgressRequestKind.gone:
        this.#gone(request.id);
        return;
      case EgressRequestKind.query:
        this.#query(request);
        return;
      case EgressRequestKind.datagram:
        this.#datagram(request);
        return;
      default:
        throw new Malformed("a request of an unknown kind");
    }
  }

  #connect(request: EgressRequest): void {
    const { id, port } = request;
    const address = addressOf(request);
    if (this.#connections.has(id)) throw new Malformed("a connection under the number of another");
    if (this.#connections.size >= MAX_CONNECTIONS) throw new Malformed("more connections than allowed");
    const pending: Pending = { controller: new AbortController(), answered: false };
    this.#connections.set(id, pending);
    const answer = (): void => {
      if (pending.answered) throw new BulkheadError("INTERNAL", { what: "a connection was answered twice" });
      pending.answered = true;
    };
    const asked: AskedConnection = {
      address,
      port,
      signal: pending.controller.signal,
      accept: async () => {
        answer();
        return await this.#accept(id, pending, `${address} port ${port}`);
      },
      refuse: (how) => {
        answer();
        if (this.#connections.get(id) !== pending) return;
        this.#connections.delete(id);
        this.#reply({ ...NOTHING, kind: EgressReplyKind.refuse, id, refusal: RefusalNumber[how] });
      },
    };
    if (address !== GUEST_ADDRESSES.resolver) this.#handler.connect(asked);
    else if (port === DNS_PORT) void this.#serveDns(asked);
    else if (port === PROXY_PORT && this.#handler.proxy !== undefined)
      void this.#serveProxy(asked, this.#handler.proxy);
    else asked.refuse("reset");
  }

  async #accept(id: number, pending: Pending, subject: string): Promise<Duplex> {
    pending.controller.signal.throwIfAborted();
    const window = this.#windows.take();
    const free = (): void => {
      window.free();
      if (this.#connections.get(id) === pending) this.#connections.delete(id);
    };
    const message = { name: "TakeConnection", body: { id, windowBytes: window.bytes } } as const;
    try {
      const { stream, opened, done } = begin(this.#inside, message, `a connection to ${subject}`);
      this.#streams.add(stream);
      const connection = duplexOf(stream, done);
      const over = (): void => {
        free();
        this.#streams.delete(stream);
      };
      void done.then(over, over);
      // A cancelled stream tells nobody of its end.
      connection.once("close", () => stream.over && over());
      await opened;
      // It may have broken in the same breath: whoever gets it would wait for a "close" that has been.
      if (connection.destroyed) throw new Error("the program broke the connection off");
      return connection;
    } catch (error) {
      free();
      throw error;
    }
  }

  /** An agent may say it of a connection that was refused meanwhile, or that is being taken, which then fails. */
  #gone(id: number): void {
    const pending = this.#connections.get(id);
    if (pending === undefined) return;
    this.#connections.delete(id);
    pending.controller.abort();
  }

  #query({ id, payload }: EgressRequest): void {
    if (payload.length < QUERY_MIN_BYTES || payload.length > MAX_QUERY_BYTES)
      throw new Malformed("a query of a length that no resolver gets");
    if (this.#queries >= MAX_QUERIES) throw new Malformed("more queries than allowed");
    void this.#answer(payload, "udp").then((answer) => {
      this.#reply({ ...NOTHING, kind: EgressReplyKind.answer, id, payload: answer ?? NOTHING.payload });
    });
  }

  /** Null is none; it comes however the handler fares. */
  async #answer(message: Uint8Array, transport: "udp" | "tcp"): Promise<Uint8Array | null> {
    this.#queries += 1;
    try {
      const answer = await this.#handler.query(message, transport);
      return answer !== null && (transport === "tcp" || answer.length <= MAX_DATAGRAM_BYTES) ? answer : null;
    } catch {
      return null;
    } finally {
      this.#queries -= 1;
    }
  }

  async #serveDns(asked: AskedConnection): Promise<void> {
    const answer = (message: Uint8Array): Promise<Uint8Array | null> =>
      this.#queries < MAX_QUERIES ? this.#answer(message, "tcp") : Promise.resolve(null);
    try {
      await serveDns(await asked.accept(), answer);
    } catch {
      // The program has gone.
    }
  }

  async #serveProxy(asked: AskedConnection, proxy: (connection: Duplex) => void): Promise<void> {
    try {
      proxy(await asked.accept());
    } catch {
      // The program has gone.
    }
  }

  #datagram(request: EgressRequest): void {
    const { address: octets, port, sourcePort, payload } = request;
    const address = addressOf(request);
    if (payload.length > MAX_DATAGRAM_BYTES || sourcePort === 0) throw new Malformed("a datagram that no packet holds");
    const reply = { ...NOTHING, address: octets, port, sourcePort };
    this.#handler.datagram({
      address,
      port,
      sourcePort,
      payload,
      reply: (bytes) => {
        if (bytes.length > MAX_DATAGRAM_BYTES) return false;
        return this.#reply({ ...reply, kind: EgressReplyKind.datagram, payload: bytes }, WAITING_MAX_BYTES);
      },
      refuse: (how: Refusal) => {
        const refusal = RefusalNumber[how];
        this.#reply({ ...reply, kind: EgressReplyKind.refuseDatagram, refusal }, WAITING_MAX_BYTES);
      },
    });
  }

  /** @returns false when more than `most` bytes wait already, or nobody listens any more. */
  #reply(reply: EgressReply, most = Infinity): boolean {
    if (this.#state.at === "closed" || this.#waitingBytes > most) return false;
    const writer = new WireWriter();
    writer.u32(0);
    writeEgressReply(writer, reply);
    const record = writer.finish();
    record.writeUInt32LE(record.length - 4);
    this.#waitingBytes += record.length;
    this.#stream.in.write(record, () => (this.#waitingBytes -= record.length));
    return true;
  }
}

/** @throws Malformed */
function addressOf({ address, port }: EgressRequest): string {
  if (port === 0 || (address.length !== 4 && address.length !== 16)) throw new Malformed("an address that is none");
  return formatAddress({
    family: address.length === 4 ? 4 : 6,
    value: BigInt(`0x${Buffer.from(address).toString("hex")}`),
  });
}
