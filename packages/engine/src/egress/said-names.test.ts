import { once } from "node:events";
import { Agent, createServer as createHttp, request, type IncomingMessage, type RequestOptions } from "node:http";
import type { Socket } from "node:net";
import { text } from "node:stream/consumers";
import { connect as tlsConnect, createServer as createTls } from "node:tls";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { type Issued, TestAuthority } from "../testing/certificates.ts";
import { scene, type Scene } from "../testing/egress-scene.ts";

/** A loaded machine takes its time over a few hundred connections. */
vi.setConfig({ testTimeout: 60_000 });

/** One address of a provider that serves several of its customers there. */
const SHARED = "93.184.216.34";
const GOOD = "good.example.com";
const EVIL = "evil.example.org";

let authority: TestAuthority;
let issued: Issued;
beforeAll(async () => {
  authority = await TestAuthority.make();
  issued = await authority.issue(GOOD, EVIL);
});

/** Both names are at the shared address, on 443 with TLS and on 80 without; each answers by the name it was asked for. */
async function shared(policy: Parameters<typeof scene>[0]): Promise<Scene> {
  const s = await scene(policy);
  s.net.names.set(GOOD, [SHARED]);
  s.net.names.set(EVIL, [SHARED]);
  await s.net.serve(
    SHARED,
    443,
    createTls({ ...issued, minVersion: "TLSv1.2" }, (socket) => {
      socket.on("error", () => undefined);
      socket.end(`TLS ${String(socket.servername)}`);
    }),
  );
  await s.net.serve(
    SHARED,
    80,
    createHttp((message, response) => {
      void text(message).then((body) =>
        response.end(`HTTP ${message.headers.host} ${message.method} ${message.url} ${body}`),
      );
    }),
  );
  await s.guest.resolve(GOOD);
  return s;
}

async function overTls(s: Scene, servername: string): Promise<string> {
  const socket = await s.guest.connect(SHARED, 443);
  const secure = tlsConnect({
    socket,
    ca: authority.pem,
    checkServerIdentity: () => undefined,
    ...(servername && { servername }),
  });
  return text(secure);
}

async function ask(
  socket: Socket,
  options: RequestOptions,
  body?: Buffer,
): Promise<{ status: number; body: string; message: IncomingMessage }> {
  const sent = request({ createConnection: () => socket, setHost: false, ...options });
  sent.end(body);
  const [message] = (await once(sent, "response")) as [IncomingMessage];
  return { status: message.statusCode!, body: await text(message), message };
}

/** Bytes as they are, and all that comes back. */
async function raw(s: Scene, port: number, ...bytes: string[]): Promise<string> {
  const socket = await s.guest.connect(SHARED, port);
  for (const piece of bytes) socket.write(piece, "latin1");
  return text(socket);
}

describe("TLS", () => {
  test("with the name that was resolved to the address goes through, untouched", async () => {
    await using s = await shared({ allow: [GOOD] });
    expect(await overTls(s, GOOD)).toBe(`TLS ${GOOD}`);
    expect(await overTls(s, GOOD.toUpperCase())).toBe(`TLS ${GOOD.toUpperCase()}`);
    expect(s.egress.denials.list()).toEqual([]);
  });

  test("with another name of the same address is told that access is denied", async () => {
    await using s = await shared({ allow: [GOOD] });
    await expect(overTls(s, EVIL)).rejects.toMatchObject({ code: "ERR_SSL_TLSV1_ALERT_ACCESS_DENIED" });
    expect(s.egress.denials.list()).toMatchObject([
      { kind: "tcp", name: EVIL, address: SHARED, port: 443, allow: `${EVIL}:443` },
    ]);
    s.update({ allow: [GOOD, EVIL] });
    // Allowed by now, but never resolved: the address may be anybody's.
    await expect(overTls(s, EVIL)).rejects.toThrow(/access denied/i);
    await s.guest.resolve(EVIL);
    expect(await overTls(s, EVIL)).toBe(`TLS ${EVIL}`);
  });

  test("without a name is told so, unless the address is allowed", async () => {
    await using s = await shared({ allow: [GOOD] });
    await expect(overTls(s, "")).rejects.toMatchObject({ code: "ERR_SSL_TLSV1_ALERT_ACCESS_DENIED" });
    expect(s.egress.denials.list()).toMatchObject([{ allow: `${SHARED}:443`, why: "its TLS names no server" }]);
    s.update({ allow: [GOOD, `${SHARED}:443`] });
    expect(await overTls(s, "")).toBe("TLS false");
  });

  test("on a port that the rule leaves out is refused", async () => {
    await using s = await shared({ allow: [`${GOOD}:8443`] });
    await expect(s.guest.connect(SHARED, 443)).rejects.toMatchObject({ how: "prohibited" });
    expect(s.egress.denials.list()).toMatchObject([{ name: GOOD, allow: `${GOOD}:443` }]);
  });

  test("by * where a name is denied", async () => {
    await using s = await shared({ allow: ["*"], deny: [EVIL] });
    expect(await overTls(s, GOOD)).toBe(`TLS ${GOOD}`);
    await expect(overTls(s, EVIL)).rejects.toThrow(/access denied/i);
    await expect(overTls(s, "")).rejects.toThrow(/access denied/i);
    expect((await s.guest.resolve(EVIL)).rcode).toBe(3);
  });

  test("nothing of a hello leaves before it is judged", async () => {
    await using s = await scene({ allow: [GOOD] });
    s.net.names.set(GOOD, [SHARED]);
    const got: Buffer[] = [];
    await s.net.talk(SHARED, 443, (socket) => void socket.on("data", (piece: Buffer) => void got.push(piece)));
    await s.guest.resolve(GOOD);
    await expect(overTls(s, EVIL)).rejects.toThrow(/access denied/i);
    expect(Buffer.concat(got)).toHaveLength(0);
  });

  test("an open connection ends when its name is allowed no more", async () => {
    await using s = await scene({ allow: [GOOD] });
    s.net.names.set(GOOD, [SHARED]);
    await s.net.serve(
      SHARED,
      443,
      createTls(issued, (socket) => void socket.on("error", () => undefined).write("hello")),
    );
    await s.guest.resolve(GOOD);
    const secure = tlsConnect({ socket: await s.guest.connect(SHARED, 443), ca: authority.pem, servername: GOOD });
    await once(secure, "data");
    secure.on("error", () => undefined);
    s.update({ allow: ["*.example.net"] });
    await once(secure, "close");
    expect(s.egress.denials.list()).toMatchObject([{ name: GOOD, allow: `${GOOD}:443` }]);
  });
});

describe("plaintext HTTP", () => {
  test("each request on a connection is judged by its own Host", async () => {
    await using s = await shared({ allow: [GOOD] });
    const socket = await s.guest.connect(SHARED, 80);
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    agent.createConnection = () => socket;
    const by = (host: string, path: string) =>
      ask(socket, { agent, createConnection: undefined, path, headers: { host } });
    expect(await by(GOOD, "/1")).toMatchObject({ status: 200, body: `HTTP ${GOOD} GET /1 ` });
    expect(await by(`${GOOD}:80`, "/2")).toMatchObject({ status: 200, body: `HTTP ${GOOD}:80 GET /2 ` });
    const denied = await by(EVIL, "/3");
    expect(denied.status).toBe(403);
    expect(denied.body).toBe(
      `Bulkhead did not let this out of the sandbox: no rule allows ${EVIL}:80.\nTo allow it: --network allow:${EVIL}:80\n`,
    );
    expect(s.egress.denials.list()).toMatchObject([{ name: EVIL, port: 80 }]);
    agent.destroy();
  });

  test("pipelined requests too", async () => {
    await using s = await shared({ allow: [GOOD] });
    const answer = await raw(s, 80, `GET /1 HTTP/1.1\r\nHost: ${GOOD}\r\n\r\nGET /2 HTTP/1.1\r\nHost: ${EVIL}\r\n\r\n`);
    expect(answer).toContain(`HTTP ${GOOD} GET /1`);
    expect(answer).toContain("HTTP/1.1 403 Forbidden");
    expect(answer).not.toContain(`HTTP ${EVIL}`);
  });

  const smuggled = `GET /smuggled HTTP/1.1\r\nHost: ${EVIL}\r\n\r\n`;
  test.each([
    [
      "a length and chunks",
      `POST / HTTP/1.1\r\nHost: ${GOOD}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${smuggled}`,
    ],
    [
      "two lengths",
      `POST / HTTP/1.1\r\nHost: ${GOOD}\r\nContent-Length: 0\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`,
    ],
    [
      "chunks in disguise",
      `POST / HTTP/1.1\r\nHost: ${GOOD}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n${smuggled}`,
    ],
    [
      "a length nominated away",
      `POST / HTTP/1.1\r\nHost: ${GOOD}\r\nConnection: content-length\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`,
    ],
    ["bare line feeds", `GET / HTTP/1.1\nHost: ${GOOD}\nX: y\n\n${smuggled}`],
    ["a folded header", `GET / HTTP/1.1\r\nHost: ${GOOD}\r\nX: y\r\n Host: ${EVIL}\r\n\r\n`],
    ["two hosts", `GET / HTTP/1.1\r\nHost: ${GOOD}\r\nHost: ${EVIL}\r\n\r\n`],
    ["a host in the URI", `GET http://${EVIL}/ HTTP/1.1\r\nHost: ${GOOD}\r\n\r\n`],
    ["no host", `GET / HTTP/1.0\r\n\r\n`],
    ["an address as host", `GET / HTTP/1.1\r\nHost: ${SHARED}\r\n\r\n`],
    ["a proxy's CONNECT", `CONNECT ${EVIL}:443 HTTP/1.1\r\nHost: ${GOOD}\r\n\r\n`],
    ["HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
    ["no HTTP", "HELO example.com\r\n"],
  ])("no server sees the other host by %s", async (_, bytes) => {
    const seen: string[] = [];
    await using s = await scene({ allow: [GOOD] });
    s.net.names.set(GOOD, [SHARED]);
    await s.net.serve(
      SHARED,
      80,
      createHttp({ insecureHTTPParser: true, requireHostHeader: false }, (message, response) => {
        seen.push(`${message.headers.host} ${message.url}`);
        response.end("answer");
      }),
    );
    await s.guest.resolve(GOOD);
    const socket = await s.guest.connect(SHARED, 80);
    socket.end(bytes, "latin1");
    await text(socket).catch(() => "");
    expect(seen.filter((line) => line.includes(EVIL) || line.includes("smuggled"))).toEqual([]);
  });

  test("an absolute URI of the same host is asked for as a path", async () => {
    await using s = await shared({ allow: [GOOD] });
    const answer = await raw(s, 80, `GET http://${GOOD}/x?y HTTP/1.1\r\nHost: ${GOOD}\r\nConnection: close\r\n\r\n`);
    expect(answer).toContain(`HTTP ${GOOD} GET /x?y`);
  });

  test("bodies of any framing, 100-continue, HEAD and errors come through as they are", async () => {
    await using s = await scene({ allow: [GOOD] });
    s.net.names.set(GOOD, [SHARED]);
    await s.net.serve(
      SHARED,
      80,
      createHttp((message, response) => {
        if (message.url === "/missing")
          return void response.writeHead(404, "Nowhere", { "X-A": ["1", "2"] }).end("gone");
        const length = message.headers["content-length"];
        response.writeHead(200, length === undefined ? {} : { "content-length": length });
        if (message.method === "HEAD") response.end();
        else message.pipe(response);
      }),
    );
    await s.guest.resolve(GOOD);
    const connect = () => s.guest.connect(SHARED, 80);
    const body = Buffer.alloc(3 << 20, "abc");
    const headers = { host: GOOD, "content-length": body.length };
    const big = await ask(await connect(), { method: "PUT", headers }, body);
    expect(big.body).toBe(body.toString());
    const expecting = request({
      createConnection: await connect().then((one) => () => one),
      method: "POST",
      headers: { host: GOOD, expect: "100-continue", "content-length": 4 },
    });
    expecting.on("continue", () => expecting.end("body"));
    const [message] = (await once(expecting, "response")) as [IncomingMessage];
    expect(await text(message)).toBe("body");
    const head = await ask(await connect(), { method: "HEAD", headers: { host: GOOD } });
    expect([head.status, head.body]).toEqual([200, ""]);
    const missing = await ask(await connect(), { path: "/missing", headers: { host: GOOD } });
    expect([missing.status, missing.message.statusMessage, missing.body]).toEqual([404, "Nowhere", "gone"]);
    expect(missing.message.headers["x-a"]).toBe("1, 2");
    const chunked = await ask(
      await connect(),
      { method: "POST", headers: { host: GOOD, "transfer-encoding": "chunked" } },
      Buffer.from("x"),
    );
    expect([chunked.status, chunked.body]).toEqual([200, "x"]);
  });

  test("a long answer is whole for a slow reader, also when its server has closed", async () => {
    await using s = await scene({ allow: [GOOD] });
    s.net.names.set(GOOD, [SHARED]);
    const answer = Buffer.alloc(8 << 20, "abc");
    const closed = Promise.withResolvers<void>();
    const head = `HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ${answer.length}\r\n\r\n`;
    await s.net.talk(SHARED, 80, (socket) => {
      socket.on("close", () => closed.resolve());
      socket.once("data", () => socket.end(Buffer.concat([Buffer.from(head), answer])));
    });
    await s.guest.resolve(GOOD);
    const socket = await s.guest.connect(SHARED, 80);
    socket.write(`GET / HTTP/1.1\r\nHost: ${GOOD}\r\n\r\n`);
    const got = await text(socket);
    expect(got.slice(got.indexOf("\r\n\r\n") + 4) === answer.toString()).toBe(true);
    socket.destroy();
    await closed.promise;
  });

  test("a WebSocket is let through, h2c is not", async () => {
    await using s = await scene({ allow: [GOOD] });
    s.net.names.set(GOOD, [SHARED]);
    const server = createHttp((_message, response) => void response.end("no upgrade"));
    server.on("upgrade", (message, socket) => {
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${message.headers.upgrade}\r\n\r\n`,
      );
      socket.pipe(socket);
    });
    await s.net.serve(SHARED, 80, server);
    await s.guest.resolve(GOOD);
    const upgrade = async (to: string): Promise<string> => {
      const socket = await s.guest.connect(SHARED, 80);
      socket.write(`GET / HTTP/1.1\r\nHost: ${GOOD}\r\nConnection: Upgrade\r\nUpgrade: ${to}\r\n\r\n`);
      const [first] = (await once(socket, "data")) as [Buffer];
      const rest = text(socket);
      socket.end(to === "websocket" ? "frames" : "");
      return first.toString() + (await rest);
    };
    expect(await upgrade("websocket")).toMatch(/^HTTP\/1.1 101 [^]*frames$/);
    expect(await upgrade("h2c")).toMatch(/^HTTP\/1.1 200 [^]*no upgrade/);
  });

  test("an answer that is hostile to whoever forwards it harms nobody", async () => {
    await using s = await scene({ allow: [GOOD] });
    s.net.names.set(GOOD, [SHARED]);
    const answers = [
      "HTTP/1.1 200 \x01\x02\r\nX: \x01\r\n\r\n",
      "HTTP/1.1 999999 OK\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
      `HTTP/1.1 200 OK\r\nX: ${"y".repeat(200_000)}\r\n\r\n`,
      "\0\0\0\0",
      "",
    ];
    let turn = 0;
    await s.net.talk(
      SHARED,
      80,
      (socket) => void socket.once("data", () => void socket.end(answers[turn++]!, "latin1")),
    );
    await s.guest.resolve(GOOD);
    for (const _ of answers) {
      const socket = await s.guest.connect(SHARED, 80);
      socket.end(`GET / HTTP/1.1\r\nHost: ${GOOD}\r\n\r\n`);
      await text(socket).catch(() => "");
    }
    expect(turn).toBe(answers.length);
  });

  test("a redirect to a denied host leads nowhere", async () => {
    await using s = await scene({ allow: [GOOD] });
    s.net.names.set(GOOD, [SHARED]);
    s.net.names.set(EVIL, ["93.184.216.99"]);
    await s.net.serve(
      SHARED,
      80,
      createHttp((_message, response) => void response.writeHead(302, { location: `http://${EVIL}/` }).end()),
    );
    await s.guest.resolve(GOOD);
    const { status, message } = await ask(await s.guest.connect(SHARED, 80), { headers: { host: GOOD } });
    expect([status, message.headers.location]).toEqual([302, `http://${EVIL}/`]);
    expect((await s.guest.resolve(EVIL)).rcode).toBe(3);
    expect(s.net.asked).toEqual([`A ${GOOD}`]);
  });
});

describe("what says no name", () => {
  test("a connection that is opened and closed is no denial", async () => {
    await using s = await shared({ allow: [GOOD] });
    const socket = await s.guest.connect(SHARED, 443);
    socket.end();
    expect(await text(socket).catch(() => "")).toBe("");
    expect(s.egress.denials.list()).toEqual([]);
  });

  test("a server that speaks first is refused at once, by name, and let through by address", async () => {
    await using s = await scene({ allow: [GOOD] });
    s.net.names.set(GOOD, [SHARED]);
    await s.net.talk(SHARED, 22, (socket) => void socket.write("SSH-2.0-Test\r\n"));
    await s.guest.resolve(GOOD);
    expect(await text(await s.guest.connect(SHARED, 22)).catch(() => "")).toBe("");
    expect(s.egress.denials.list()).toMatchObject([
      { name: GOOD, allow: `${SHARED}:22`, why: expect.stringMatching(/speaks first/) },
    ]);
    s.update({ allow: [GOOD, `${SHARED}:22`] });
    const socket = await s.guest.connect(SHARED, 22);
    expect(String((await once(socket, "data"))[0])).toBe("SSH-2.0-Test\r\n");
  });

  test.each([
    ["git's own protocol", "0033git-upload-pack /x\0host=good.example.com\0"],
    ["random bytes", "\xff\x00\x80abc"],
    ["a TLS record that is no hello", "\x16\x03\x01\x00\x04\x02\x00\x00\x00"],
  ])("%s is refused, and nothing of it leaves", async (_, bytes) => {
    await using s = await scene({ allow: [GOOD] });
    s.net.names.set(GOOD, [SHARED]);
    const got: Buffer[] = [];
    await s.net.talk(SHARED, 9418, (socket) => void socket.on("data", (piece: Buffer) => void got.push(piece)));
    await s.guest.resolve(GOOD);
    expect(await raw(s, 9418, bytes).catch(() => "")).toBe("");
    expect(got).toEqual([]);
    expect(s.egress.denials.list()).toMatchObject([{ kind: "tcp", allow: `${SHARED}:9418` }]);
  });
});
