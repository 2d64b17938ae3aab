import { spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { parseAddress, parsePolicy } from "@bulkhead/contract";
import { describe, expect, test, vi } from "vitest";
import { HandMadeGuest } from "../testing/hand-made-guest.ts";
import { RCODE, readQuestion, TYPE, writeAnswer, type Question } from "./dns-message.ts";
import { Egress } from "./egress.ts";
import { HostOutside } from "./outside.ts";
import { isOwnListener } from "./own-listeners.ts";

vi.setConfig({ testTimeout: 60_000 });

const LOOPBACK = parseAddress("127.0.0.1")!;
const never = new AbortController().signal;

/** A DNS server on loopback that counts what it is asked. */
async function dnsServer(answer: (question: Question) => Parameters<typeof writeAnswer>[1] | null) {
  const socket = createSocket("udp4");
  const asked: string[] = [];
  socket.on("message", (message, from) => {
    const question = readQuestion(message) as Question;
    asked.push(`${question.type} ${question.name?.toLowerCase()}`);
    const back = answer(question);
    if (back !== null) socket.send(writeAnswer(question, back, "udp"), from.port, from.address);
  });
  socket.bind(0, "127.0.0.1");
  await once(socket, "listening");
  return { asked, server: `127.0.0.1:${socket.address().port}`, [Symbol.dispose]: () => socket.close() };
}

/** A server in another process: says hello. @returns its port. */
async function otherProcess(stack: DisposableStack): Promise<number> {
  const program = `require("net").createServer(s=>s.end("hello")).listen(0,"127.0.0.1",function(){console.log(this.address().port)})`;
  const child = spawn(process.execPath, ["-e", program], { stdio: ["ignore", "pipe", "inherit"] });
  stack.defer(() => void child.kill());
  return Number(String((await once(child.stdout, "data"))[0]));
}

describe("the host's resolver", () => {
  test("is asked the name and nothing else", async () => {
    using dns = await dnsServer(({ name, type }) => {
      if (name?.toLowerCase() !== "pypi.org") return { rcode: RCODE.noSuchName };
      return { rcode: 0, ttl: 42, addresses: type === TYPE.A ? [parseAddress("192.0.2.1")!] : [] };
    });
    const outside = new HostOutside([dns.server]);
    expect(await outside.resolve("pypi.org", 4, never)).toEqual([{ address: "192.0.2.1", ttl: 42 }]);
    expect(await outside.resolve("pypi.org", 6, never)).toEqual([]);
    expect(await outside.resolve("no.example.com", 4, never)).toBeNull();
    expect(dns.asked).toEqual(["1 pypi.org", "28 pypi.org", "1 no.example.com"]);
  });

  test("that does not answer, or only fails, is an error; what was begun can be called off", async () => {
    using failing = await dnsServer(() => ({ rcode: RCODE.serverFailure }));
    await expect(new HostOutside([failing.server]).resolve("pypi.org", 4, never)).rejects.toThrow(/SERVFAIL/i);
    using silent = await dnsServer(() => null);
    const given = new AbortController();
    const asked = new HostOutside([silent.server]).resolve("pypi.org", 4, given.signal);
    given.abort();
    await expect(asked).rejects.toThrow(/CANCELLED/i);
  });
});

describe("the host's connections", () => {
  test("go to the address that was judged; failures keep their code", async () => {
    using stack = new DisposableStack();
    const port = await otherProcess(stack);
    const outside = new HostOutside();
    const socket = await outside.connect(LOOPBACK, port, never);
    expect(socket.remoteAddress).toBe("127.0.0.1");
    expect(await text(socket)).toBe("hello");
    socket.destroy();
    await expect(outside.connect(LOOPBACK, 1, never)).rejects.toMatchObject({ code: "ECONNREFUSED" });
    await expect(outside.connect(LOOPBACK, port, AbortSignal.abort())).rejects.toMatchObject({ code: "ABORT_ERR" });
  });

  test("UDP hears its own peer alone", async () => {
    const peer = createSocket("udp4");
    peer.bind(0, "127.0.0.1");
    await once(peer, "listening");
    const socket = await new HostOutside().openUdp(LOOPBACK, peer.address().port);
    const stranger = createSocket("udp4");
    const heard: string[] = [];
    socket.on("message", (payload) => void heard.push(payload.toString()));
    stranger.send("stranger", socket.address().port, "127.0.0.1");
    socket.send("x");
    const [, from] = (await once(peer, "message")) as [Buffer, { port: number }];
    peer.send("peer", from.port, "127.0.0.1");
    await expect.poll(() => heard, { timeout: 20_000 }).toEqual(["peer"]);
    for (const one of [peer, socket, stranger]) one.close();
  });

  test("its own addresses are known", () => {
    expect(new HostOutside().ownAddresses()).toContainEqual(LOOPBACK);
  });
});

test("what this process listens on answers no sandbox, also where a rule names the address", async () => {
  using stack = new DisposableStack();
  const other = await otherProcess(stack);
  const own = createServer((socket) => void socket.end("the engine"));
  stack.defer(() => own.close());
  own.listen(0, "127.0.0.1");
  await once(own, "listening");
  const { port } = own.address() as AddressInfo;
  expect([isOwnListener(port), isOwnListener(other)]).toEqual([true, false]);
  const egress = new Egress(parsePolicy({ allow: ["127.0.0.1"] }), { outside: new HostOutside() });
  await using guest = await HandMadeGuest.make(egress);
  await expect(guest.connect("127.0.0.1", port)).rejects.toMatchObject({ how: "prohibited" });
  expect(egress.denials.list()).toMatchObject([{ port, allow: null, why: expect.stringMatching(/Bulkhead's own/) }]);
  expect(await text(await guest.connect("127.0.0.1", other))).toBe("hello");
  egress.close();
});
