import { BulkheadError } from "@bulkhead/contract";
import { createServer, type Server, type Socket } from "node:net";
import { PassThrough } from "node:stream";
import type { Sandbox } from "../sandbox/sandbox.ts";
import { Ask } from "./ask.ts";
import { type Frame, frames, GENERATION, Gone, jsonOf, Kind, MAX_DATA_BYTES, Peer, Unreadable } from "./frames.ts";
import { perform } from "./operations.ts";
import { ControlDirectory } from "./place.ts";

/** A copy has some twenty at a time. Beyond that many a client is told to come back. */
const MAX_CONNECTIONS = 256;
/** Told so at a time; more are closed without a word. */
const MAX_REFUSED = 32;
/** A client says at once what it wants. */
const REQUEST_WITHIN_MS = 5_000;
/** For a client to read its answer and go. */
const FAREWELL_MS = 5_000;

export interface ControlLimits {
  readonly maxConnections: number;
  readonly requestWithinMs: number;
}

const LIMITS: ControlLimits = { maxConnections: MAX_CONNECTIONS, requestWithinMs: REQUEST_WITHIN_MS };

function asError(error: unknown): BulkheadError {
  if (error instanceof BulkheadError) return error;
  if (error instanceof Unreadable) {
    return new BulkheadError("SPEC_INVALID", {
      what: "what came on the control socket cannot be read",
      why: error.message,
      next: "use the bulkhead that belongs to the engine",
    });
  }
  return new BulkheadError("INTERNAL", { what: error instanceof Error ? error.message : String(error), cause: error });
}

function askOf(frame: Frame): Ask {
  if (frame.kind !== Kind.request) throw new Unreadable("the first frame is to be a request");
  const ask = new Ask(jsonOf(frame));
  const generation = ask.number("generation");
  if (generation === GENERATION) return ask;
  throw new BulkheadError("SPEC_INVALID", {
    what: `this engine's control socket speaks generation ${GENERATION}, not ${generation}`,
    next: "use the bulkhead that belongs to the engine",
  });
}

/** One connection, from its request to its answer. */
class Conversation {
  readonly #socket: Socket;
  readonly #peer: Peer;
  readonly #gone = new AbortController();
  readonly #input = new PassThrough({ highWaterMark: MAX_DATA_BYTES });
  #onControl: (ask: Ask) => void = () => undefined;
  #taking = false;
  #over = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.#peer = new Peer(socket);
    // Who reads it is told; where nobody does its end is no failure of ours.
    this.#input.on("error", () => undefined);
  }

  async hold(boxes: ReadonlySet<Sandbox>, requestWithinMs: number): Promise<void> {
    const socket = this.#socket;
    const late = setTimeout(() => socket.destroy(), requestWithinMs);
    const incoming = frames(socket.iterator({ destroyOnReturn: false }));
    try {
      const first = await incoming.next();
      clearTimeout(late);
      if (first.done === true) return;
      const ask = askOf(first.value);
      const session = {
        peer: this.#peer,
        input: this.#input,
        signal: this.#gone.signal,
        onControl: (listener: (control: Ask) => void) => void (this.#onControl = listener),
      };
      const work = perform(boxes, ask, session);
      work.catch(() => undefined);
      const broken = this.#listen(incoming);
      await this.#answer(() => Promise.race([work, broken]));
    } catch (error) {
      clearTimeout(late);
      this.#over = true;
      this.#listen(incoming).catch(() => undefined);
      await this.#answer(() => Promise.reject(error));
    }
  }

  /** The last words. Nothing that is still to come changes anything then. */
  async #answer(work: () => Promise<unknown>): Promise<void> {
    try {
      const result = await work();
      await this.#peer.json(Kind.result, result);
    } catch (error) {
      if (!(error instanceof Gone)) await this.#peer.json(Kind.failure, asError(error)).catch(() => undefined);
    }
    this.#over = true;
    this.#gone.abort();
    this.#input.destroy();
    part(this.#socket);
  }

  /** Never resolves: rejects when the client breaks the rules, which ends what it began; so does its going. */
  #listen(incoming: AsyncIterable<Frame>): Promise<never> {
    const broken = Promise.withResolvers<never>();
    broken.promise.catch(() => undefined);
    const listen = async (): Promise<void> => {
      for await (const frame of incoming) {
        if (this.#over) continue;
        this.#take(frame);
      }
      throw new Gone();
    };
    listen().catch((error: unknown) => {
      const gone = error instanceof Unreadable || error instanceof BulkheadError ? error : new Gone();
      this.#input.destroy(gone);
      broken.reject(gone);
      this.#gone.abort(gone);
      discard(this.#socket);
    });
    return broken.promise;
  }

  #take({ kind, body }: Frame): void {
    if (kind === Kind.end) return void this.#input.end();
    if (kind === Kind.control) return this.#onControl(new Ask(jsonOf({ kind, body })));
    if (kind !== Kind.data || this.#taking || this.#input.writableEnded)
      throw new Unreadable("a frame came out of its turn");
    this.#taking = true;
    this.#input.write(body, (error) => {
      this.#taking = false;
      if (error == null) void this.#peer.send(Kind.ack).catch(() => undefined);
    });
  }
}

/**
 * What other processes of this host reach an engine's sandboxes by: a socket in a directory that is root's alone, so that
 * the kernel lets nobody else connect. The server does not keep its process alive.
 */
export class ControlServer implements AsyncDisposable {
  readonly directory: ControlDirectory;
  readonly #server: Server;
  readonly #sockets: Set<Socket>;

  private constructor(directory: ControlDirectory, server: Server, sockets: Set<Socket>) {
    this.directory = directory;
    this.#server = server;
    this.#sockets = sockets;
  }

  /** @throws BulkheadError HOST_RESOURCE */
  static async open(
    run: string,
    engine: string,
    boxes: ReadonlySet<Sandbox>,
    limits: ControlLimits = LIMITS,
  ): Promise<ControlServer> {
    const sockets = new Set<Socket>();
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      const full = sockets.size >= limits.maxConnections;
      sockets.add(socket);
      socket.on("error", () => undefined).once("close", () => void sockets.delete(socket));
      if (sockets.size > limits.maxConnections + MAX_REFUSED) socket.destroy();
      else if (full) refuse(socket);
      else void new Conversation(socket).hold(boxes, limits.requestWithinMs);
    }).unref();
    await using stack = new AsyncDisposableStack();
    try {
      const directory = stack.use(await ControlDirectory.make(run, engine));
      await directory.listen(server);
      stack.move();
      return new ControlServer(directory, server, sockets);
    } catch (cause) {
      server.close();
      throw new BulkheadError("HOST_RESOURCE", {
        what: `the control socket of engine ${engine} cannot be made`,
        why: cause instanceof Error ? cause.message : String(cause),
        cause,
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
    await this.directory[Symbol.asyncDispose]();
  }
}

/** Reads on: bytes that nobody has read would have the kernel take our last words back. */
function discard(socket: Socket): void {
  socket.removeAllListeners("readable").resume();
}

/** The connection ends when the client does, or after a while. */
function part(socket: Socket): void {
  socket.end();
  const timer = setTimeout(() => socket.destroy(), FAREWELL_MS).unref();
  socket.once("close", () => clearTimeout(timer));
}

function refuse(socket: Socket): void {
  const error = new BulkheadError("STREAM_LIMIT", {
    what: "the engine has too many connections on its control socket",
    next: "try again when some of them have ended",
  });
  void new Peer(socket).json(Kind.failure, error).catch(() => undefined);
  discard(socket);
  part(socket);
}
