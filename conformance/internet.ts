import { createServer as createHttp } from "node:http";
import { createServer as createHttps } from "node:https";
import { createServer as createPlain } from "node:net";
import type { IncomingMessage, ServerResponse } from "node:http";
import { type Issued, TestAuthority } from "../packages/engine/src/testing/certificates.ts";
import { FakeInternet } from "../packages/engine/src/testing/fake-internet.ts";

/** One address at a provider that serves several names, one of a name alone, one without any name, over both families. */
export const SHARED = "93.184.216.34";
export const SHARED_6 = "2606:4700::34";
export const NAMELESS = "93.184.216.40";
export const METADATA = "169.254.169.254";
/** Allowed by the checks, and what is not. */
export const GOOD = "good.example.com";
export const WILD = "files.cdn.example.net";
export const EVIL = "evil.example.org";
/** Served with a certificate that is not for it. */
export const UNISSUED = "unissued.example.com";
/** Resolves to the metadata service. */
export const REBOUND = "rebound.example.com";
export const ECHO_PORT = 7;
export const SINK_PORT = 9;
export const BANNER_PORT = 22;
/** Takes connections and never says or reads anything. */
export const STALL_PORT = 444;

export interface Internet extends AsyncDisposable {
  readonly net: FakeInternet;
  /** The certificate that all TLS servers' are issued under. */
  readonly ca: string;
  /** Files by path, the same at every name. */
  readonly files: Map<string, Buffer>;
  /** The last requests, without their bodies. */
  readonly seen: Seen[];
}

export interface Seen {
  readonly host: string;
  readonly path: string;
  readonly headers: IncomingMessage["headers"];
}

const SEEN_MAX = 1000;

const typeOf = (path: string): string => (path.endsWith("/") ? "text/html" : "application/octet-stream");

function serveFiles(
  files: ReadonlyMap<string, Buffer>,
  seen: Seen[],
): (message: IncomingMessage, response: ServerResponse) => void {
  return (message, response) => {
    const path = (message.url ?? "/").replace(/\?.*/, "");
    seen.push({ host: message.headers.host ?? "", path, headers: message.headers });
    if (seen.length > SEEN_MAX) seen.shift();
    const file = files.get(path);
    if (path === "/redirect") response.writeHead(302, { location: `https://${EVIL}/` }).end();
    else if (file !== undefined)
      response.writeHead(200, { "content-length": file.length, "content-type": typeOf(path) }).end(file);
    else if (path === "/who") response.end(`${message.headers.host}`);
    else response.writeHead(404).end();
  };
}

/** Names, addresses, TLS, plain HTTP, a metadata service, UDP, a banner and a server that stalls, on loopback. */
export async function makeInternet(): Promise<Internet> {
  const net = new FakeInternet();
  const authority = await TestAuthority.make();
  const issued: Issued = await authority.issue(GOOD, WILD, EVIL, REBOUND);
  const files = new Map<string, Buffer>();
  const seen: Seen[] = [];
  net.trusted.push(authority.pem);
  for (const name of [GOOD, WILD, EVIL, UNISSUED]) net.names.set(name, [SHARED, SHARED_6]);
  net.names.set(REBOUND, [METADATA]);
  for (const address of [SHARED, SHARED_6, NAMELESS]) {
    // A guest that is emulated on a busy machine may take longer between two requests than servers wait by default.
    const patient = { keepAliveTimeout: 0, headersTimeout: 0, requestTimeout: 0, handshakeTimeout: 600_000 };
    await net.serve(address, 443, createHttps({ ...issued, ...patient }, serveFiles(files, seen)));
    await net.serve(address, 80, createHttp(patient, serveFiles(files, seen)));
    await net.serve(
      address,
      ECHO_PORT,
      createPlain({ allowHalfOpen: true }, (socket) => void socket.pipe(socket)),
    );
    await net.talk(address, SINK_PORT, (socket) => void socket.on("end", () => socket.end("done")).resume());
    await net.talk(address, BANNER_PORT, (socket) => void socket.write("SSH-2.0-Test\r\n"));
    await net.talk(address, STALL_PORT, () => undefined);
    await net.udp(address, 53, (payload) => payload);
  }
  await net.serve(
    METADATA,
    80,
    createHttp((_message, response) => void response.end("the host's credentials")),
  );
  return { net, ca: authority.pem, files, seen, [Symbol.asyncDispose]: () => net[Symbol.asyncDispose]() };
}
