import { once } from "node:events";
import { createServer as createHttp, type IncomingMessage } from "node:http";
import { Agent, createServer as createHttps, request, type RequestOptions } from "node:https";
import { type Duplex, duplexPair } from "node:stream";
import { text } from "node:stream/consumers";
import { connect as tlsConnect, type TLSSocket } from "node:tls";
import { beforeAll, describe, expect, test, vi } from "vitest";
import type { NetworkPolicy } from "@bulkhead/contract";
import { type Issued, TestAuthority } from "../testing/certificates.ts";
import { scene, type Scene } from "../testing/egress-scene.ts";
import { Authority } from "./authority.ts";

/** A loaded machine takes its time over some handshakes. */
vi.setConfig({ testTimeout: 60_000 });

/** One address that several names have. */
const SHARED = "93.184.216.34";
const OTHER_ADDRESS = "93.184.216.35";
const API = "api.example.com";
const OTHER = "other.example.org";
const VALUE = "Bearer s3cr3t-abcdef";
const SECRETS = [{ host: API, header: "authorization", value: VALUE }];

let authority: TestAuthority;
let issued: Issued;
beforeAll(async () => {
  authority = await TestAuthority.make();
  issued = await authority.issue(API, OTHER);
});

interface Seen {
  readonly method: string;
  readonly url: string;
  readonly headers: readonly string[];
  readonly body: string;
  readonly trailers: readonly string[];
}

interface Place extends Scene {
  readonly seen: Seen[];
}

/** Both names are served at one address, and what the server is asked is remembered and answered. */
async function place(
  policy: Partial<NetworkPolicy> = { allow: [API, OTHER] },
  { secrets = SECRETS, served = issued, trusted = [authority.pem] } = {},
): Promise<Place> {
  const s = await scene(policy, undefined, { secrets, trusted });
  const seen: Seen[] = [];
  for (const name of [API, OTHER]) s.net.names.set(name, [SHARED]);
  const serve = createHttps(served, (message, response) => {
    void text(message).then((body) => {
      const { method = "", url = "", rawHeaders: headers, rawTrailers: trailers } = message;
      seen.push({ method, url, headers, body, trailers });
      response.end(JSON.stringify({ method, url, headers, body, trailers }));
    });
  });
  serve.on("upgrade", (_message, socket) => {
    socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    socket.pipe(socket);
  });
  await s.net.serve(SHARED, 443, serve);
  await s.guest.resolve(API);
  await s.guest.resolve(OTHER);
  return { ...s, seen, [Symbol.asyncDispose]: () => s[Symbol.asyncDispose]() };
}

/** What a program does that trusts the edge and the test's own authority. */
async function dial(s: Scene, servername: string, options: { ALPNProtocols?: string[]; ca?: string[] } = {}) {
  const socket = await s.guest.connect(SHARED, 443);
  const secure = tlsConnect({ socket, servername, ca: [s.egress.edge!.certificate, authority.pem], ...options });
  await once(secure, "secureConnect");
  return secure;
}

async function ask(
  secure: TLSSocket,
  options: RequestOptions & { readonly body?: Buffer; readonly trailers?: Record<string, string> } = {},
): Promise<{ status: number; body: string; message: IncomingMessage }> {
  const { body, trailers, ...rest } = options;
  const sent = request({ createConnection: () => secure, setHost: false, headers: { host: API }, ...rest });
  if (body !== undefined) sent.write(body);
  if (trailers !== undefined) sent.addTrailers(trailers);
  sent.end();
  const [message] = (await once(sent, "response")) as [IncomingMessage];
  return { status: message.statusCode!, body: await text(message), message };
}

/** Bytes as they are on a connection for the API, and what comes back; ended once there is an answer, before it is a request's abort. */
async function raw(s: Scene, bytes: string): Promise<string> {
  const secure = await dial(s, API);
  secure.write(bytes, "latin1");
  secure.once("readable", () => void secure.end());
  return await text(secure).catch(() => "");
}

const values = ({ headers }: Seen, name: string): string[] =>
  headers.flatMap((item, i) => (i % 2 === 0 && item.toLowerCase() === name ? [headers[i + 1]!] : []));

describe("a host with a secret", () => {
  test("sees the header, which no program has, on every request of a connection", async () => {
    await using s = await place();
    const secure = await dial(s, API);
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    agent.createConnection = () => secure;
    for (const path of ["/1", "/2"]) {
      const { status } = await ask(secure, { agent, createConnection: undefined, path });
      expect(status).toBe(200);
    }
    agent.destroy();
    expect(s.seen.map((one) => [one.url, values(one, "authorization"), values(one, "host")])).toEqual([
      ["/1", [VALUE], [API]],
      ["/2", [VALUE], [API]],
    ]);
    expect(s.egress.denials.list()).toEqual([]);
  });

  test("pipelined requests have it too", async () => {
    await using s = await place();
    const get = (path: string, more = "") => `GET ${path} HTTP/1.1\r\nHost: ${API}\r\n${more}\r\n`;
    const secure = await dial(s, API);
    secure.write(get("/1") + get("/2", "Connection: close\r\n"));
    expect((await text(secure)).match(/HTTP\/1.1 200/g)).toHaveLength(2);
    expect(s.seen.map((one) => values(one, "authorization"))).toEqual([[VALUE], [VALUE]]);
  });

  test("never sees a header of that name from inside, however it is written", async () => {
    await using s = await place(undefined, { secrets: [{ host: API, header: "x-api-key", value: "outside" }] });
    const inside = ["X-Api-Key: a", "x_api_key: b", "X-API-KEY: c", "Connection: close, x-api-key"].join("\r\n");
    const body = "Transfer-Encoding: chunked\r\n\r\n1\r\nz\r\n0\r\nX-Api-Key: d\r\nX-Sum: e\r\n\r\n";
    await raw(s, `POST / HTTP/1.1\r\nHost: ${API}\r\n${inside}\r\n${body}`);
    expect(s.seen).toHaveLength(1);
    const [one] = s.seen;
    expect(values(one!, "x-api-key")).toEqual(["outside"]);
    expect(one!.headers.map((item) => item.toLowerCase())).not.toContain("x_api_key");
    expect([one!.body, one!.trailers]).toEqual(["z", ["X-Sum", "e"]]);
  });

  test("gets bodies of any size, trailers and upgrades through, both ways", async () => {
    await using s = await place();
    const body = Buffer.alloc(3 << 20, "abc");
    const put = {
      method: "PUT",
      headers: { host: API, "transfer-encoding": "chunked" },
      body,
      trailers: { "x-sum": "1" },
    };
    const { status, body: answered } = await ask(await dial(s, API), put);
    expect(status).toBe(200);
    expect((JSON.parse(answered) as Seen).body === body.toString()).toBe(true);
    expect(s.seen[0]!.trailers).toEqual(["x-sum", "1"]);
    const socket = await dial(s, API);
    socket.write(`GET / HTTP/1.1\r\nHost: ${API}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`);
    expect(String((await once(socket, "data"))[0])).toMatch(/^HTTP\/1.1 101 /);
    socket.write("frames");
    expect(String((await once(socket, "data"))[0])).toBe("frames");
    socket.destroy();
  });

  test("has its long answers whole for a slow reader", async () => {
    await using s = await place();
    const long = Buffer.alloc(8 << 20, "abc");
    const served = createHttps(issued, (_message, response) =>
      response.writeHead(200, { connection: "close" }).end(long),
    );
    await s.net.serve(SHARED, 443, served);
    const secure = await dial(s, API);
    secure.pause();
    secure.write(`GET / HTTP/1.1\r\nHost: ${API}\r\n\r\n`);
    let got = 0;
    // Slower than what writes: the connection is over on the other side long before all is read.
    for await (const piece of secure) {
      got += (piece as Buffer).length;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    expect(got).toBeGreaterThan(long.length);
  });

  test.each([
    ["everything", { allow: ["*"] }],
    ["its address", { allow: [API, SHARED] }],
    ["a wildcard", { allow: ["*.example.com"] }],
    ["all but one", { allow: ["*"], deny: ["evil.org"] }],
  ])("sees the header where a policy allows %s", async (_, policy) => {
    await using s = await place(policy);
    expect((await ask(await dial(s, API))).status).toBe(200);
    expect(values(s.seen[0]!, "authorization")).toEqual([VALUE]);
  });

  test("sees a renewed value at the next request", async () => {
    await using s = await place();
    s.egress.edge!.replace({ ...SECRETS[0]!, value: "Bearer next" });
    await ask(await dial(s, API));
    expect(values(s.seen[0]!, "authorization")).toEqual(["Bearer next"]);
    expect(() => s.egress.edge!.replace({ ...SECRETS[0]!, host: OTHER, value: VALUE })).toThrow(/other.example.org/);
  });

  test("is offered HTTP/1.1 alone, and a program that speaks only HTTP/2 is told of", async () => {
    await using s = await place();
    const secure = await dial(s, API, { ALPNProtocols: ["h2", "http/1.1"] });
    expect(secure.alpnProtocol).toBe("http/1.1");
    secure.destroy();
    const socket = await s.guest.connect(SHARED, 443);
    tlsConnect({ socket, servername: API, ALPNProtocols: ["h2"] }).on("error", () => undefined);
    await expect
      .poll(() => s.egress.denials.list().map(({ why }) => why), { timeout: 20_000 })
      .toEqual([expect.stringMatching(/does not speak HTTP\/1.1/)]);
  });

  test("ends its connections when it is allowed no more", async () => {
    await using s = await place();
    const secure = await dial(s, API);
    await ask(secure, { headers: { host: API, connection: "keep-alive" } });
    secure.on("error", () => undefined);
    const closed = once(secure, "close");
    s.update({ allow: [OTHER] });
    await closed;
    expect(s.egress.denials.list()).toMatchObject([{ name: API, allow: `${API}:443` }]);
  });
});

describe("everything else stays end to end", () => {
  test("another host at the same address shows its own certificate and sees no header", async () => {
    await using s = await place();
    const secure = await dial(s, OTHER, { ca: [authority.pem] });
    expect(secure.getPeerCertificate().fingerprint256).toBeTruthy();
    await ask(secure, { headers: { host: OTHER } });
    expect(values(s.seen[0]!, "authorization")).toEqual([]);
    await expect(dial(s, OTHER, { ca: [s.egress.edge!.certificate] })).rejects.toThrow(/certificate/i);
  });

  test("plaintext to the host has no header", async () => {
    await using s = await place();
    const seen: string[] = [];
    await s.net.serve(
      SHARED,
      80,
      createHttp((message, response) => {
        seen.push(String(message.headers.authorization));
        response.end();
      }),
    );
    const socket = await s.guest.connect(SHARED, 80);
    socket.write(`GET / HTTP/1.1\r\nHost: ${API}\r\nConnection: close\r\n\r\n`);
    await text(socket);
    expect(seen).toEqual(["undefined"]);
  });

  test("an address that is allowed by itself carries anything else as before", async () => {
    await using s = await place({ allow: [API, SHARED] });
    const secure = await dial(s, OTHER, { ca: [authority.pem] });
    secure.destroy();
    expect(s.egress.denials.list().filter(({ kind }) => kind === "tcp")).toEqual([]);
  });
});

describe("refused, and told why", () => {
  test("a request that names another host", async () => {
    await using s = await place();
    const { status, body } = await ask(await dial(s, API), { headers: { host: OTHER } });
    expect([status, s.seen]).toEqual([403, []]);
    expect(body).toContain(`the connection is for ${API}, and a request on it names ${OTHER}`);
    expect(s.egress.denials.list()).toMatchObject([{ name: OTHER, allow: null }]);
  });

  test("TRACE, whose answer would say the header", async () => {
    await using s = await place();
    expect((await ask(await dial(s, API), { method: "TRACE" })).status).toBe(403);
    expect(s.seen).toEqual([]);
  });

  test.each([
    ["of another name", async () => ({ served: await authority.issue("wrong.example.com") }), /ALTNAME/],
    [
      "of an authority that nobody trusts",
      async () => ({ trusted: [(await TestAuthority.make()).pem] }),
      /VERIFY|SIGNATURE|ISSUER/,
    ],
  ])("a server with a certificate %s", async (_, changes, why) => {
    await using s = await place(undefined, await changes());
    const { status, body } = await ask(await dial(s, API));
    expect([status, s.seen]).toEqual([403, []]);
    expect(body).toMatch(why);
    expect(s.egress.denials.list()).toMatchObject([{ name: API, why: expect.stringMatching(why), allow: null }]);
  });

  test("the host's name on an address that is not its own", async () => {
    await using s = await place();
    s.net.names.set(OTHER, [OTHER_ADDRESS]);
    await s.net.serve(
      OTHER_ADDRESS,
      443,
      createHttps(issued, (_message, response) => void response.end()),
    );
    await s.guest.resolve("elsewhere.example.org");
    s.update({ allow: [API, "elsewhere.example.org"] });
    s.net.names.set("elsewhere.example.org", [OTHER_ADDRESS]);
    await s.guest.resolve("elsewhere.example.org");
    const socket = await s.guest.connect(OTHER_ADDRESS, 443);
    const secure = tlsConnect({ socket, servername: API, ca: s.egress.edge!.certificate });
    await expect(once(secure, "secureConnect")).rejects.toThrow(/access denied/i);
  });
});

describe("a hostile program", () => {
  const smuggled = `GET /smuggled HTTP/1.1\r\nHost: ${API}\r\n\r\n`;
  test.each([
    ["a length and chunks", `Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${smuggled}`],
    ["two lengths", `Content-Length: 0\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`],
    ["chunks in disguise", `Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n${smuggled}`],
    ["a folded header", `X: y\r\n Authorization: mine\r\n\r\n`],
    ["a bare carriage return", `X: y\rAuthorization: mine\r\n\r\n`],
    ["headers without end", `X: ${"y".repeat(200_000)}\r\n\r\n`],
    ["many headers", `${"X: y\r\n".repeat(30_000)}\r\n`],
  ])("gets no request past the parser by %s", async (_, rest) => {
    await using s = await place();
    await raw(s, `POST /first HTTP/1.1\r\nHost: ${API}\r\n${rest}`);
    expect(s.seen.filter(({ url }) => url !== "/first")).toEqual([]);
    for (const one of s.seen) expect(values(one, "authorization")).toEqual([VALUE]);
  });

  test("harms nobody by TLS that breaks off, is none, or never ends", async () => {
    await using s = await place();
    const hello = await helloFor(API);
    for (const rest of ["", "\0".repeat(100), "\x15\x03\x03\x00\x02\x02\x00", "x".repeat(100_000)]) {
      const socket = await s.guest.connect(SHARED, 443);
      socket.write(hello);
      socket.write(rest, "latin1");
      setTimeout(() => socket.destroy(), 50);
      await once(socket, "close");
    }
    // Those that stall are as many as connections are.
    const stalled = await Promise.all(Array.from({ length: 100 }, () => s.guest.connect(SHARED, 443)));
    for (const socket of stalled) socket.write(hello.subarray(0, 50));
    expect((await ask(await dial(s, API))).status).toBe(200);
    s.egress.close();
    await Promise.all(stalled.filter((socket) => !socket.destroyed).map((socket) => once(socket, "close")));
  });
});

test("bytes that are no TLS, in the middle of an upgrade, end their connection alone", async () => {
  await using s = await place();
  const held: Duplex[] = [];
  const served = createHttps(issued, (_message, response) => void response.end()).on("upgrade", (_, socket) => {
    held.push(socket.on("error", () => undefined));
  });
  await s.net.serve(SHARED, 443, served);
  const socket = await s.guest.connect(SHARED, 443);
  const [near, far] = duplexPair();
  far.on("error", () => undefined).pipe(socket);
  socket.pipe(far);
  const secure = tlsConnect({ socket: near, servername: API, ca: s.egress.edge!.certificate });
  secure.on("error", () => undefined);
  await once(secure, "secureConnect");
  secure.write(`GET / HTTP/1.1\r\nHost: ${API}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`);
  await expect.poll(() => held.length, { timeout: 20_000 }).toBe(1);
  const closed = once(socket, "close");
  socket.write("\x17\x03\x03\x00\x20no record that anybody could read", "latin1");
  // It is read once the server has answered.
  held[0]!.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
  await closed;
  expect((await ask(await dial(s, API))).status).toBe(200);
});

/** The bytes with which a client begins. */
async function helloFor(servername: string): Promise<Buffer> {
  const [near, far] = duplexPair();
  const secure = tlsConnect({ socket: near, servername });
  secure.on("error", () => undefined);
  const [hello] = (await once(far, "data")) as [Buffer];
  secure.destroy();
  return hello;
}

test("the authority can speak for its hosts alone", async () => {
  const own = await Authority.make([API]);
  await using s = await scene({ allow: [SHARED] });
  for (const [name, outcome] of [
    [API, "taken"],
    ["evil.example.org", "permitted subtree violation"],
  ] as const) {
    await s.net.serve(
      SHARED,
      443,
      createHttps(await own.leaf(name), (_message, response) => void response.end()),
    );
    const socket = await s.guest.connect(SHARED, 443);
    const secure = tlsConnect({ socket, servername: name, ca: own.certificate });
    const taken = await once(secure, "secureConnect").then(
      () => "taken",
      (error: Error) => error.message,
    );
    expect(taken).toContain(outcome);
    secure.destroy();
  }
});
