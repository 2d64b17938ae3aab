import { createServer as createHttp } from "node:http";
import { createServer as createHttps, request as httpsRequest } from "node:https";
import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { text } from "node:stream/consumers";
import { connect as tlsConnect } from "node:tls";
import { describe, expect, test, vi } from "vitest";
import { TestAuthority } from "../testing/certificates.ts";
import { scene, type Scene } from "../testing/egress-scene.ts";

vi.setConfig({ testTimeout: 60_000 });

const SHARED = "93.184.216.34";
const GOOD = "good.example.com";
const EVIL = "evil.example.org";

async function place(allow: readonly string[], more: Parameters<typeof scene>[2] = {}): Promise<Scene> {
  const s = await scene({ allow }, undefined, { proxy: true, ...more });
  for (const name of [GOOD, EVIL]) s.net.names.set(name, [SHARED]);
  await s.net.serve(
    SHARED,
    80,
    createHttp((message, response) => {
      const { method, url, headers } = message;
      void text(message).then((body) =>
        response.end(`${method} ${url} ${headers.host} ${String(headers["proxy-connection"] ?? "")}${body}`),
      );
    }),
  );
  await s.net.talk(SHARED, 7, (socket) => void socket.pipe(socket));
  return s;
}

async function raw(s: Scene, bytes: string): Promise<string> {
  const socket = await s.guest.connectToProxy();
  socket.write(bytes, "latin1");
  return await text(socket).catch(() => "");
}

/** @returns the connection behind CONNECT, or the whole answer. */
async function through(s: Scene, target: string): Promise<Socket | string> {
  const socket = await s.guest.connectToProxy();
  socket.write(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`);
  const [first] = (await once(socket, "data")) as [Buffer];
  if (first.toString().startsWith("HTTP/1.1 200 ")) return socket;
  return first.toString() + (await text(socket));
}

describe("CONNECT", () => {
  test("leads to allowed names and addresses, judged as everything is", async () => {
    await using s = await place([GOOD, `${SHARED}:7`]);
    const by = (await through(s, `${GOOD}:80`)) as Socket;
    by.write(`GET /x HTTP/1.1\r\nHost: ${GOOD}\r\nConnection: close\r\n\r\n`);
    expect(await text(by)).toContain(`GET /x ${GOOD}`);
    const echo = (await through(s, `${SHARED}:7`)) as Socket;
    echo.end("anything");
    expect(await text(echo)).toBe("anything");
    const fronting = (await through(s, `${GOOD}:80`)) as Socket;
    fronting.write(`GET /x HTTP/1.1\r\nHost: ${EVIL}\r\n\r\n`);
    expect(await text(fronting)).toContain("403 Forbidden");
  });

  test.each([
    [`${EVIL}:443`, `no rule allows ${EVIL}:443`, `--network allow:${EVIL}:443`],
    [`${GOOD}:22`, `no rule allows ${GOOD}:22`, `--network allow:${GOOD}:22`],
    ["93.184.216.99:443", "no rule allows 93.184.216.99 port 443", "--network allow:93.184.216.99:443"],
    ["169.254.169.254:80", "metadata service", "--network allow:169.254.169.254:80"],
    ["127.0.0.1:80", "loopback", "--network allow:127.0.0.1:80"],
    ["[::1]:80", "loopback", "--network allow:[::1]:80"],
    ["localhost:80", '"localhost" is no name of a host', ""],
  ])("to %s is answered 403, with why and what would allow it", async (target, why, option) => {
    await using s = await place([`${GOOD}:80`]);
    const answer = await through(s, target);
    expect(answer).toMatch(/^HTTP\/1.1 403 Forbidden\r\n/);
    expect(answer).toContain(why);
    expect(answer).toContain(option);
    expect(s.egress.denials.list()).toHaveLength(1);
    expect(s.net.asked).toEqual([]);
  });

  test.each([
    ["nobody.example.com:80", /^HTTP\/1.1 502 .*no address for nobody/s],
    [`${GOOD}:81`, /^HTTP\/1.1 502 /],
    [`${GOOD}`, /^HTTP\/1.1 400 /],
    [`${GOOD}:99999`, /^HTTP\/1.1 400 /],
  ])("to %s fails as what it is", async (target, answer) => {
    await using s = await place([GOOD, "nobody.example.com"]);
    expect(await through(s, target)).toMatch(answer);
    expect(s.egress.denials.list()).toEqual([]);
  });

  test("leads to the edge where a host has a secret", async () => {
    const authority = await TestAuthority.make();
    const secrets = [{ host: GOOD, header: "x-api-key", value: "s3cr3t" }];
    await using s = await place([GOOD], { secrets, trusted: [authority.pem] });
    const served = createHttps(await authority.issue(GOOD), (message, response) => {
      response.end(String(message.headers["x-api-key"]));
    });
    await s.net.serve(SHARED, 443, served);
    const socket = (await through(s, `${GOOD}:443`)) as Socket;
    const secure = tlsConnect({ socket, servername: GOOD, ca: s.egress.edge!.certificate });
    const sent = httpsRequest({ createConnection: () => secure, host: GOOD }).end();
    const [message] = (await once(sent, "response")) as [IncomingMessage];
    expect(await text(message)).toBe("s3cr3t");
  });
});

describe("a request with an absolute URI", () => {
  test("is asked of its host as a path", async () => {
    await using s = await place([GOOD]);
    const answer = await raw(
      s,
      `POST http://${GOOD}/x?y HTTP/1.1\r\nHost: ${GOOD}\r\nProxy-Connection: close\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody`,
    );
    expect(answer).toMatch(/^HTTP\/1.1 200 /);
    expect(answer).toContain(`POST /x?y ${GOOD} body`);
  });

  test("for a denied host is answered 403 with why; others on the same connection go on", async () => {
    await using s = await place([GOOD]);
    const denied = await raw(s, `GET http://${EVIL}/ HTTP/1.1\r\nHost: ${EVIL}\r\n\r\n`);
    expect(denied).toMatch(/^HTTP\/1.1 403 /);
    expect(denied).toContain(`To allow it: --network allow:${EVIL}:80`);
    const get = (path: string) => `GET http://${GOOD}${path} HTTP/1.1\r\nHost: ${GOOD}\r\n`;
    const both = await raw(s, `${get("/1")}\r\n${get("/2")}Connection: close\r\n\r\n`);
    expect(both).toContain("GET /1");
    expect(both).toContain("GET /2");
  });

  test.each([
    ["another Host", `GET http://${GOOD}/ HTTP/1.1\r\nHost: ${EVIL}\r\n\r\n`],
    ["a path", `GET / HTTP/1.1\r\nHost: ${GOOD}\r\n\r\n`],
    ["another scheme", `GET ftp://${GOOD}/ HTTP/1.1\r\nHost: ${GOOD}\r\n\r\n`],
    ["a user", `GET http://${EVIL}@${GOOD}/ HTTP/1.1\r\nHost: ${EVIL}@${GOOD}\r\n\r\n`],
    ["no HTTP", "hello\r\n\r\n"],
    [
      "a length and chunks",
      `POST http://${GOOD}/ HTTP/1.1\r\nHost: ${GOOD}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    ],
  ])("with %s is refused", async (_, bytes) => {
    await using s = await place([GOOD]);
    expect(await raw(s, bytes)).toMatch(/^HTTP\/1.1 400 /);
    expect(s.net.asked).toEqual([]);
  });
});

test("without being asked for there is no proxy", async () => {
  await using s = await scene({ allow: [GOOD] });
  expect(s.egress.proxy).toBeUndefined();
});
