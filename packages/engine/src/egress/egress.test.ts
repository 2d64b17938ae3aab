import type { Socket } from "node:net";
import { text } from "node:stream/consumers";
import { describe, expect, test, vi } from "vitest";
import { dnsQuery } from "../testing/dns-query.ts";
import { scene } from "../testing/egress-scene.ts";

/** A loaded machine takes its time over a few hundred connections. */
vi.setConfig({ testTimeout: 60_000 });

const A = "93.184.216.34";
const B = "93.184.216.35";
const A6 = "2606:4700::1111";

const refused = (how: string) => ({ how });
/** Whether the other end reset the connection or closed it, without a byte. */
async function nothing(socket: Socket): Promise<boolean> {
  const got = await text(socket).catch(() => "");
  return got === "";
}
const echo = (socket: Socket): void => void socket.pipe(socket);

describe("names", () => {
  test("only allowed names are asked of the host's resolver, in canonical form", async () => {
    await using s = await scene({ allow: ["pypi.org", "*.example.com"] });
    s.net.names.set("pypi.org", [A, A6]);
    s.net.names.set("a.b.example.com", [B]);
    expect(await s.guest.resolve("PyPI.org")).toMatchObject({ addresses: [A], rcode: 0 });
    expect(await s.guest.resolve("pypi.org", 6)).toMatchObject({ addresses: [A6], rcode: 0 });
    expect(await s.guest.resolve("a.b.example.com")).toMatchObject({ addresses: [B] });
    expect(await s.guest.resolve("evil.org")).toMatchObject({ rcode: 3, why: "no rule allows evil.org" });
    expect(await s.guest.resolve("example.com")).toMatchObject({ rcode: 3 });
    expect(await s.guest.resolve("secret.pypi.org")).toMatchObject({ rcode: 3 });
    expect(s.net.asked).toEqual(["A pypi.org", "AAAA pypi.org", "A a.b.example.com"]);
    expect(s.egress.denials.list().map(({ kind, name, allow }) => ({ kind, name, allow }))).toEqual([
      { kind: "dns", name: "evil.org", allow: "evil.org" },
      { kind: "dns", name: "example.com", allow: "example.com" },
      { kind: "dns", name: "secret.pypi.org", allow: "secret.pypi.org" },
    ]);
  });

  test("a name that does not exist, and one without an address, are told apart and remembered", async () => {
    await using s = await scene({ allow: ["*.example.com"] });
    s.net.names.set("b.example.com", [B]);
    for (let i = 0; i < 3; i++) {
      expect(await s.guest.resolve("a.example.com")).toMatchObject({ rcode: 3, why: "" });
      expect(await s.guest.resolve("b.example.com", 6)).toMatchObject({ rcode: 0, addresses: [] });
    }
    expect(s.net.asked).toEqual(["A a.example.com", "AAAA b.example.com"]);
    expect(s.egress.denials.list()).toEqual([]);
  });

  test.each([16, 65, 64, 15, 255])("of records of type %i nothing is told, and nothing leaves", async (type) => {
    await using s = await scene({ allow: ["pypi.org"] });
    const answer = (await s.egress.query(dnsQuery("pypi.org", type), "udp"))!;
    expect([answer[3]! & 0xf, answer[7]]).toEqual([0, 0]);
    const denied = (await s.egress.query(dnsQuery("evil.org", type), "udp"))!;
    expect(denied[3]! & 0xf).toBe(3);
    expect(s.net.asked).toEqual([]);
  });

  test("DNS is no tunnel: labels of denied names stay, those of wildcards are short and slow", async () => {
    await using s = await scene({ allow: ["*.example.com"] }, () => 0);
    for (let i = 0; i < 50; i++) await s.guest.resolve(`${"x".repeat(60)}.${i}.evil.org`);
    expect(s.net.asked).toEqual([]);
    const long = ["a", "b", "c"].map((letter) => letter.repeat(60)).join(".");
    expect((await s.guest.resolve(`${long}.example.com`)).why).toMatch(/characters of it/);
    expect(s.net.asked).toEqual([]);
    for (let i = 0; i < 2000; i++) await s.guest.resolve(`n${i}.example.com`);
    expect(s.net.asked).toHaveLength(512);
    expect(s.egress.denials.list().at(-1)?.why).toMatch(/different names a second/);
  });

  test("an allowed name that has a private address is not given it", async () => {
    await using s = await scene({ allow: ["a.example.com", "b.example.com"] });
    s.net.names.set("a.example.com", ["10.0.0.7"]);
    s.net.names.set("b.example.com", ["169.254.169.254", B]);
    expect(await s.guest.resolve("a.example.com")).toMatchObject({ rcode: 3, addresses: [] });
    expect(await s.guest.resolve("b.example.com")).toMatchObject({ rcode: 0, addresses: [B] });
    expect(s.egress.denials.list().map(({ name, allow }) => [name, allow])).toEqual([
      ["a.example.com", "10.0.0.7"],
      ["b.example.com", "169.254.169.254"],
    ]);
    await using open = await scene({ allow: ["a.example.com", "10.0.0.7"] });
    open.net.names.set("a.example.com", ["10.0.0.7"]);
    expect((await open.guest.resolve("a.example.com")).addresses).toEqual(["10.0.0.7"]);
  });

  test("a resolver that does not answer is a failure, not a denial", async () => {
    await using s = await scene({ allow: ["pypi.org"] });
    s.net.resolve = () => Promise.reject(new Error("no answer"));
    expect(await s.guest.resolve("pypi.org")).toMatchObject({ rcode: 2, why: expect.stringMatching(/did not answer/) });
    expect(s.egress.denials.list()).toEqual([]);
  });
});

describe("addresses", () => {
  test("raw ones only by a rule for them", async () => {
    await using s = await scene({ allow: ["pypi.org", `${B}:80`] });
    await s.net.talk(A, 443, echo);
    await s.net.talk(B, 80, echo);
    await expect(s.guest.connect(A, 443)).rejects.toMatchObject(refused("prohibited"));
    await expect(s.guest.connect(B, 81)).rejects.toMatchObject(refused("prohibited"));
    const socket = await s.guest.connect(B, 80);
    socket.end("anything at all");
    expect(await text(socket)).toBe("anything at all");
    expect(s.egress.denials.list().map(({ address, port, allow }) => [address, port, allow])).toEqual([
      [A, 443, `${A}:443`],
      [B, 81, `${B}:81`],
    ]);
    s.update({ allow: [`${A}:443`] });
    expect(await s.guest.connect(A, 443)).toBeTruthy();
  });

  test.each(["169.254.169.254", "127.0.0.1", "10.0.0.1", "fd00:ec2::254", "::ffff:a9fe:a9fe", "::1"])(
    "%s: not by *, but by itself",
    async (address) => {
      await using s = await scene({ allow: ["*"] });
      await s.net.talk(address, 80, echo);
      await expect(s.guest.connect(address, 80)).rejects.toMatchObject(refused("prohibited"));
      expect(s.egress.denials.list()[0]?.why).toMatch(/only a rule that names it/);
      s.update({ allow: [address] });
      const socket = await s.guest.connect(address, 80);
      socket.end("x");
      expect(await text(socket)).toBe("x");
    },
  );

  test("the host's own address is not public", async () => {
    await using s = await scene({ allow: ["*"] });
    await s.net.talk(A, 80, echo);
    expect(await s.guest.connect(A, 80)).toBeTruthy();
    s.net.own.push({ family: 4, value: BigInt(0x5db8d822) });
    await expect(s.guest.connect(A, 80)).rejects.toMatchObject(refused("prohibited"));
  });

  test("IPv6", async () => {
    await using s = await scene({ allow: ["2606:4700::/32"] });
    await s.net.talk(A6, 443, echo);
    const socket = await s.guest.connect(A6, 443);
    socket.end("six");
    expect(await text(socket)).toBe("six");
    await expect(s.guest.connect("2607::1", 443)).rejects.toMatchObject(refused("prohibited"));
    expect(s.egress.denials.list()[0]?.allow).toBe("[2607::1]:443");
  });

  test("UDP only by a rule for UDP and the address, also where the name is allowed", async () => {
    await using s = await scene({ allow: ["pypi.org", `${B}:53/udp`, A] });
    await s.net.udp(A, 443, (payload) => payload);
    await s.net.udp(B, 53, (payload) => Buffer.from(`got ${payload.toString()}`));
    s.net.names.set("pypi.org", [A]);
    await s.guest.resolve("pypi.org");
    await expect(s.guest.datagram(A, 443, Buffer.from("quic"))).rejects.toMatchObject(refused("prohibited"));
    expect((await s.guest.datagram(B, 53, Buffer.from("x"))).toString()).toBe("got x");
    expect(s.egress.denials.list()).toMatchObject([{ kind: "udp", name: "pypi.org", allow: `${A}:443/udp` }]);
    s.update({ allow: [`${A}:443/udp`] });
    expect((await s.guest.datagram(A, 443, Buffer.from("quic"))).toString()).toBe("quic");
    await expect(s.guest.datagram(B, 53, Buffer.from("x"))).rejects.toMatchObject(refused("prohibited"));
  });

  test("what happens outside is what happens inside", async () => {
    await using s = await scene({ allow: [A, B] });
    await expect(s.guest.connect(A, 1)).rejects.toMatchObject(refused("reset"));
    const unreachable = Object.assign(new Error(), { code: "EHOSTUNREACH" });
    const connect = s.net.connect.bind(s.net);
    s.net.connect = () => Promise.reject(unreachable);
    await expect(s.guest.connect(A, 1)).rejects.toMatchObject(refused("unreachable"));
    s.net.connect = connect;
    await s.net.talk(B, 80, (socket) => socket.once("data", () => socket.resetAndDestroy()));
    const socket = await s.guest.connect(B, 80);
    socket.write("x");
    expect(await nothing(socket)).toBe(true);
    expect(s.egress.denials.list()).toEqual([]);
  });

  test("each side ends its own sending first if it likes, and a reset from inside goes out", async () => {
    await using s = await scene({ allow: [A] });
    const seen = Promise.withResolvers<string>();
    await s.net.talk(A, 80, (socket) => {
      socket.end("early");
      text(socket).then(seen.resolve, seen.reject);
    });
    const socket = await s.guest.connect(A, 80);
    expect(await text(socket)).toBe("early");
    socket.end("late");
    expect(await seen.promise).toBe("late");
    const gone = Promise.withResolvers<void>();
    await s.net.talk(A, 81, (other) => void other.on("close", gone.resolve).resume());
    (await s.guest.connect(A, 81)).resetAndDestroy();
    await gone.promise;
  });

  test("200 connections at once, a stalled server among them, all carry what is theirs", async () => {
    await using s = await scene({ allow: [A] });
    await s.net.talk(A, 80, echo);
    await s.net.talk(A, 81, () => undefined);
    const stalled = await s.guest.connect(A, 81);
    stalled.write(Buffer.alloc(1 << 20));
    const body = "0123456789".repeat(5000);
    const all = Array.from({ length: 200 }, async (_, i) => {
      const socket = await s.guest.connect(A, 80);
      socket.end(`${i} ${body}`);
      return (await text(socket)) === `${i} ${body}`;
    });
    expect(await Promise.all(all)).toEqual(Array(200).fill(true));
    s.egress.close();
    expect(await nothing(stalled)).toBe(true);
  });

  test("more connections than may be are refused, not kept", async () => {
    await using s = await scene({ allow: [A] });
    await s.net.talk(A, 80, () => undefined);
    const sockets = await Promise.all(Array.from({ length: 256 }, () => s.guest.connect(A, 80)));
    await expect(s.guest.connect(A, 80)).rejects.toMatchObject(refused("unreachable"));
    sockets[0]!.resetAndDestroy();
    await expect
      .poll(
        () =>
          s.guest.connect(A, 80).then(
            () => true,
            () => false,
          ),
        { timeout: 20_000 },
      )
      .toBe(true);
  });
});

describe("a policy changed while it is in force", () => {
  test("ends what is not allowed any more, and nothing else", async () => {
    await using s = await scene({ allow: [A, B] });
    await s.net.talk(A, 80, echo);
    await s.net.talk(B, 80, echo);
    const [stays, ends] = [await s.guest.connect(A, 80), await s.guest.connect(B, 80)];
    s.update({ allow: [A] });
    expect(await nothing(ends)).toBe(true);
    expect(s.egress.denials.list()).toMatchObject([{ address: B, allow: `${B}:80` }]);
    stays.end("still here");
    expect(await text(stays)).toBe("still here");
  });

  test("by address under *, a name's denial ends what said no name", async () => {
    await using s = await scene({ allow: ["*"] });
    await s.net.talk(A, 80, echo);
    const socket = await s.guest.connect(A, 80);
    s.update({ allow: ["*"], deny: ["evil.org"] });
    expect(await nothing(socket)).toBe(true);
  });

  test("a rate holds all connections together, both ways", async () => {
    await using slow = await scene({ allow: [A], rateBytesPerSecond: 65_536 });
    await using fast = await scene({ allow: [A] });
    const payload = Buffer.alloc(2 << 20, 1);
    for (const { net } of [slow, fast]) {
      await net.talk(A, 80, (socket) => void socket.end(payload));
      await net.talk(A, 81, (socket) => void socket.on("end", () => socket.end("done")).resume());
    }
    const down = async ({ guest }: typeof slow) => (await text(await guest.connect(A, 80))).length;
    const up = async ({ guest }: typeof slow) => {
      const socket = await guest.connect(A, 81);
      socket.end(payload);
      return text(socket);
    };
    let over = false;
    const held = [down(slow), down(slow), up(slow)].map((one) => one.then(() => (over = true)).catch(() => undefined));
    expect(await Promise.all([down(fast), down(fast), up(fast)])).toEqual([payload.length, payload.length, "done"]);
    expect(over).toBe(false);
    slow.update({ allow: [A] });
    await Promise.all(held);
    expect(over).toBe(true);
  });
});

test("a denial is told once, counted, and the last 256 are kept", async () => {
  await using s = await scene({ allow: [] });
  const told: string[] = [];
  using _ = s.egress.denials.listen(({ name }) => void told.push(name ?? ""));
  for (let i = 0; i < 3; i++) await s.guest.resolve("evil.org");
  expect(told).toEqual(["evil.org"]);
  expect(s.egress.denials.list()).toMatchObject([{ kind: "dns", name: "evil.org", rule: null, count: 3 }]);
  for (let i = 0; i < 1000; i++) await s.guest.resolve(`n${i}.evil.org`);
  expect(s.egress.denials.list()).toHaveLength(256);
  expect(s.egress.denials.list().at(-1)?.name).toBe("n999.evil.org");
  expect(told.length).toBeLessThan(500);
});

test("a program that gives up before the server answers leaves nothing", async () => {
  await using s = await scene({ allow: [A] });
  const calls: AbortSignal[] = [];
  s.net.connect = (_address, _port, signal) =>
    new Promise((_, reject) => {
      calls.push(signal);
      signal.addEventListener("abort", () => reject(new Error("aborted")));
    });
  const given = new AbortController();
  const attempt = s.guest.connect(A, 80, given.signal);
  given.abort();
  await expect(attempt).rejects.toMatchObject(refused("unreachable"));
  expect(calls[0]?.aborted).toBe(true);
});
