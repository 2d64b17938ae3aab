import { BulkheadError } from "@bulkhead/contract";
import { createServer, isIP, type AddressInfo, type Server, type Socket } from "node:net";
import { splice } from "../egress/splice.ts";
import type { Inside } from "./calls.ts";
import { dial } from "./dial.ts";
import { quote, whole } from "./names.ts";

const LOOPBACK = "127.0.0.1";
const MAX_PORT = 65_535;
/** At once, to one port; more wait in the kernel. Each is a stream of the channel, which has 1,024. */
const MAX_CONNECTIONS = 256;

export interface PublishOptions {
  /** Address of the host to listen on. Default 127.0.0.1: nobody but this machine reaches the port. */
  readonly hostAddress?: string;
  /** Default: one that is free. */
  readonly hostPort?: number;
}

/** A port of the host that leads to one inside. Closing it also ends the connections through it. */
export interface PublishedPort extends AsyncDisposable {
  readonly hostAddress: string;
  readonly hostPort: number;
  /** `http://127.0.0.1:40123`; whether anything there speaks HTTP is the program's matter. */
  readonly url: string;
  close(): Promise<void>;
}

/**
 * Listens on the host until closed or until the sandbox is no more. A connection that nobody inside takes is reset.
 * @throws BulkheadError SPEC_INVALID, HOST_RESOURCE when the address or port cannot be had
 */
export async function publish(inside: Inside, port: number, options: PublishOptions = {}): Promise<PublishedPort> {
  const { hostAddress = LOOPBACK, hostPort = 0 } = options;
  whole(port, "port", 1, MAX_PORT);
  whole(hostPort, "hostPort", 0, MAX_PORT);
  if (isIP(hostAddress) === 0) {
    throw new BulkheadError("SPEC_INVALID", {
      what: `hostAddress ${quote(hostAddress)} is no IP address`,
      next: "leave it out for 127.0.0.1, or name an address of this host",
    });
  }
  const open = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (socket) => {
    open.add(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => open.delete(socket));
    void connect(inside, port, socket);
  });
  server.maxConnections = MAX_CONNECTIONS;
  await listen(server, hostAddress, hostPort);
  const closed = new Promise<void>((resolve) => server.once("close", resolve));
  const close = (): Promise<void> => {
    server.close();
    for (const socket of open) socket.resetAndDestroy();
    return closed;
  };
  void inside.channel.closed.then(close);
  const at = (server.address() as AddressInfo).port;
  const host = hostAddress.includes(":") ? `[${hostAddress}]` : hostAddress;
  return { hostAddress, hostPort: at, url: `http://${host}:${at}`, close, [Symbol.asyncDispose]: close };
}

async function connect(inside: Inside, port: number, socket: Socket): Promise<void> {
  const gone = new AbortController();
  const abort = (): void => gone.abort();
  socket.once("close", abort);
  try {
    const connection = await dial(inside, { port, address: "localhost" }, { signal: gone.signal });
    socket.off("close", abort);
    splice(connection, socket);
    socket.resume();
  } catch {
    socket.resetAndDestroy();
  }
}

function listen(server: Server, host: string, port: number): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", (cause: NodeJS.ErrnoException) => {
    const taken = cause.code === "EADDRINUSE";
    reject(
      new BulkheadError("HOST_RESOURCE", {
        what: `port ${port} of ${host} cannot be listened on`,
        why: taken ? "something else listens there already" : cause.message,
        next: taken ? "choose another port of the host, or 0 for a free one" : "name an address of this host",
        cause,
      }),
    );
  });
  server.listen({ host, port }, resolve);
  return promise;
}
