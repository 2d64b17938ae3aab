import { once } from "node:events";
import type { Duplex } from "node:stream";
import { buffer } from "node:stream/consumers";
import { describe, expect, test } from "vitest";
import type { Channel } from "../channel/channel.ts";
import { WireReader, WireWriter } from "../channel/codec.ts";
import {
  type EgressReply,
  EgressReplyKind,
  type EgressRequest,
  EgressRequestKind as Kind,
  MAX_CONNECTIONS,
  MAX_DATAGRAM_BYTES,
  MAX_QUERIES,
  MAX_QUERY_BYTES,
  MAX_RECORD_BYTES,
  type Message,
  readEgressReply,
  Refusal,
  TYPE,
  writeEgressRequest,
} from "../channel/wire.gen.ts";
import { type FakeAgent, fakePair } from "../testing/fake-agent.ts";
import type { AskedConnection, AskedDatagram, EgressHandler, EgressSession } from "./guest.ts";
import { openEgress } from "./session.ts";

/** The stream of egress itself: the first of a session. */
const EGRESS = 1;
const IPV4 = Buffer.from([203, 0, 113, 7]);
const OPENED: Message = { name: "Opened", body: {} };
const BLANK = { kind: 0, id: 0, address: Buffer.alloc(0), port: 0, sourcePort: 0, payload: Buffer.alloc(0) };

interface Scene {
  readonly agent: FakeAgent;
  readonly channel: Channel;
  readonly session: EgressSession;
  readonly connections: AskedConnection[];
  readonly datagrams: AskedDatagram[];
  readonly queries: PromiseWithResolvers<Uint8Array | null>[];
  readonly broken: unknown[];
  readonly ask: (request: Partial<EgressRequest>) => Promise<void>;
  readonly replies: () => EgressReply[];
}

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));

async function scene(): Promise<Scene> {
  const broken: unknown[] = [];
  const { agent, attached } = fakePair({ onBroken: (error) => broken.push(error) });
  const channel = await attached;
  const connections: AskedConnection[] = [];
  const datagrams: AskedDatagram[] = [];
  const queries: PromiseWithResolvers<Uint8Array | null>[] = [];
  const handler: EgressHandler = {
    connect: (asked) => void connections.push(asked),
    datagram: (asked) => void datagrams.push(asked),
    query: () => {
      const answer = Promise.withResolvers<Uint8Array | null>();
      queries.push(answer);
      return answer.promise;
    },
  };
  const opening = openEgress({ channel, explain: async (error) => error }, handler);
  agent.say(EGRESS, OPENED);
  const session = await opening;
  const ask = async (request: Partial<EgressRequest>): Promise<void> => {
    agent.data(EGRESS, 1, record({ ...BLANK, ...request }));
    await settle();
  };
  const replies = (): EgressReply[] => {
    const bytes = Buffer.concat(
      agent.seen.filter((one) => one.type === TYPE.Data && one.stream === EGRESS).map((one) => one.payload),
    );
    const list: EgressReply[] = [];
    for (let at = 0; at < bytes.length; at += 4 + bytes.readUInt32LE(at)) {
      list.push(readEgressReply(new WireReader(bytes.subarray(at + 4, at + 4 + bytes.readUInt32LE(at)))));
    }
    return list;
  };
  return { agent, channel, session, connections, datagrams, queries, broken, ask, replies };
}

function record(request: EgressRequest): Buffer {
  const writer = new WireWriter();
  writer.u32(0);
  writeEgressRequest(writer, request);
  const bytes = writer.finish();
  bytes.writeUInt32LE(bytes.length - 4);
  return bytes;
}

const connect = (id: number, port = 80): Partial<EgressRequest> => ({ kind: Kind.connect, id, address: IPV4, port });

/** Takes a connection from both ends. */
async function taken({ agent, ask, connections }: Scene, id: number): Promise<{ stream: number; duplex: Duplex }> {
  await ask(connect(id));
  const accepting = connections.at(-1)!.accept();
  await settle();
  const opener = agent.seen.findLast((one) => one.type === TYPE.TakeConnection)!;
  agent.say(opener.stream, OPENED);
  return { stream: opener.stream, duplex: await accepting };
}

describe("what a hostile agent asks", () => {
  const QUERY = { kind: Kind.query, payload: Buffer.alloc(12) };
  const DATAGRAM = { kind: Kind.datagram, address: IPV4, port: 1, sourcePort: 1 };
  const times = <T>(count: number, make: (index: number) => T): T[] => Array.from({ length: count }, (_, i) => make(i));
  const cases: readonly (readonly [string, readonly Partial<EgressRequest>[]])[] = [
    ["a kind there is not", [{ kind: 5 }]],
    ["a connection twice", [connect(1), connect(1)]],
    ["one connection too many", times(MAX_CONNECTIONS + 1, (i) => connect(i))],
    ["an address of five bytes", [{ ...connect(1), address: Buffer.alloc(5) }]],
    ["no address", [{ ...connect(1), address: Buffer.alloc(0) }]],
    ["port 0", [connect(1, 0)]],
    ["a query without a header", [{ ...QUERY, payload: Buffer.alloc(11) }]],
    ["a long query", [{ ...QUERY, payload: Buffer.alloc(MAX_QUERY_BYTES + 1) }]],
    ["one query too many", times(MAX_QUERIES + 1, (id) => ({ ...QUERY, id }))],
    ["a datagram from port 0", [{ ...DATAGRAM, sourcePort: 0 }]],
    ["a datagram larger than a packet", [{ ...DATAGRAM, payload: Buffer.alloc(MAX_DATAGRAM_BYTES + 1) }]],
  ];
  test.each(cases)("%s ends the sandbox", async (_, requests) => {
    const { ask, broken, session, channel } = await scene();
    for (const request of requests.slice(0, -1)) await ask(request);
    expect(broken).toEqual([]);
    await ask(requests.at(-1)!);
    expect(broken).toMatchObject([{ code: "CHANNEL_PROTOCOL" }]);
    expect(await session.ended).toMatchObject({ code: "CHANNEL_PROTOCOL" });
    expect(channel.buffered).toBe(0);
  });

  test("a record longer than allowed, and one that is cut", async () => {
    const long = await scene();
    const head = Buffer.alloc(4);
    head.writeUInt32LE(MAX_RECORD_BYTES + 1);
    long.agent.data(EGRESS, 1, head);
    await settle();
    expect(long.broken).toHaveLength(1);
    const cut = await scene();
    const bytes = record({ ...BLANK, ...connect(1) });
    bytes.writeUInt32LE(bytes.length - 5);
    cut.agent.data(EGRESS, 1, bytes.subarray(0, -1));
    await settle();
    expect(cut.broken).toHaveLength(1);
  });
});

describe("a connection", () => {
  test("is refused as the handler says, and its number may be used again", async () => {
    const { ask, connections, replies } = await scene();
    for (const [i, how] of (["reset", "unreachable", "prohibited"] as const).entries()) {
      await ask(connect(7));
      expect(connections[i]).toMatchObject({ address: "203.0.113.7", port: 80 });
      connections[i]!.refuse(how);
      await settle();
      expect(replies()[i]).toMatchObject({ kind: EgressReplyKind.refuse, id: 7, refusal: Refusal[how] });
      expect(() => connections[i]!.refuse(how)).toThrow(/twice/);
    }
  });

  test("carries bytes both ways, and a graceful end cancels nothing", async () => {
    const all = await scene();
    const { agent } = all;
    const { stream, duplex } = await taken(all, 1);
    duplex.end("to the program");
    agent.data(stream, 1, Buffer.from("from the program"));
    agent.say(stream, { name: "End", body: {} }, 1);
    expect((await buffer(duplex)).toString()).toBe("from the program");
    if (!duplex.closed) await once(duplex, "close");
    await settle();
    const sent = agent.seen.filter((one) => one.stream === stream);
    expect(Buffer.concat(sent.filter((one) => one.type === TYPE.Data).map((one) => one.payload)).toString()).toBe(
      "to the program",
    );
    expect(sent.map((one) => one.type)).toContain(TYPE.End);
    expect(sent.map((one) => one.type)).not.toContain(TYPE.Cancel);
    agent.say(stream, { name: "Done", body: {} });
    await settle();
    expect(all.broken).toEqual([]);
  });

  test("that is destroyed is reset, and one that breaks is destroyed, at any time", async () => {
    const all = await scene();
    const first = await taken(all, 1);
    first.duplex.destroy();
    await settle();
    expect(all.agent.seen.at(-1)).toMatchObject({ stream: first.stream, type: TYPE.Cancel });
    const second = await taken(all, 2);
    second.duplex.resume();
    all.agent.say(second.stream, { name: "End", body: {} }, 1);
    await settle();
    const closed = new Promise((resolve) => second.duplex.once("close", resolve));
    all.agent.say(second.stream, { name: "Failed", body: { kind: 14, errno: 0, message: "reset" } });
    await closed;
    expect(second.duplex.writableFinished).toBe(false);
  });

  test("whose program gives up is aborted, cannot be accepted, and makes room", async () => {
    const { ask, connections, agent, broken } = await scene();
    for (let id = 0; id < MAX_CONNECTIONS; id += 1) await ask(connect(id));
    const late = connections[1]!.accept();
    await settle();
    const { stream } = agent.seen.findLast((one) => one.type === TYPE.TakeConnection)!;
    for (const id of [0, 1]) await ask({ kind: Kind.gone, id });
    expect(connections[0]!.signal.aborted).toBe(true);
    await expect(connections[0]!.accept()).rejects.toMatchObject({ name: "AbortError" });
    // The agent's answer to the other comes behind what it asks next.
    for (const id of [300, 301]) await ask(connect(id));
    agent.say(stream, { name: "Failed", body: { kind: 2, errno: 0, message: "nobody waits" } });
    await expect(late).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    expect(connections).toHaveLength(MAX_CONNECTIONS + 2);
    expect(broken).toEqual([]);
  });

  test("that breaks in the breath in which it opens is not accepted", async () => {
    const { ask, connections, agent } = await scene();
    await ask(connect(1));
    const accepting = connections[0]!.accept();
    await settle();
    const { stream } = agent.seen.findLast((one) => one.type === TYPE.TakeConnection)!;
    agent.say(stream, OPENED);
    agent.say(stream, { name: "Failed", body: { kind: 14, errno: 0, message: "reset" } });
    const outcome = await accepting.then(
      (duplex) =>
        duplex.destroyed
          ? "a dead connection"
          : once(duplex, "close").then(
              () => "ended",
              () => "ended",
            ),
      () => "refused",
    );
    expect(outcome).not.toBe("a dead connection");
  });

  test("has a window that the many share out", async () => {
    const { ask, connections, agent } = await scene();
    for (let id = 0; id < MAX_CONNECTIONS; id += 1) {
      await ask(connect(id));
      void connections[id]!.accept().catch(() => undefined);
    }
    await settle();
    const windows = agent.seen.flatMap((one) =>
      one.message?.name === "TakeConnection" ? [one.message.body.windowBytes] : [],
    );
    expect(windows).toHaveLength(MAX_CONNECTIONS);
    expect(windows.reduce((sum, bytes) => sum + bytes)).toBeLessThan(8 * 1024 * 1024);
  });

  test("to the resolver is DNS, and to its other ports nothing", async () => {
    const all = await scene();
    const { agent, ask, queries, connections, replies } = all;
    const resolver = Buffer.from([192, 0, 0, 1]);
    await ask({ ...connect(1), address: resolver });
    expect(replies()).toMatchObject([{ id: 1, refusal: Refusal.reset }]);
    await ask({ ...connect(2, 53), address: resolver });
    const { stream } = agent.seen.findLast((one) => one.type === TYPE.TakeConnection)!;
    agent.say(stream, OPENED);
    const message = Buffer.concat([Buffer.from([0, 12]), Buffer.alloc(12, 1)]);
    agent.data(stream, 1, Buffer.concat([message, message.subarray(0, 5)]));
    await settle();
    queries[0]!.resolve(Buffer.from("first"));
    await settle();
    agent.data(stream, 1, message.subarray(5));
    await settle();
    queries[1]!.resolve(null);
    await settle();
    const sent = agent.seen.filter((one) => one.stream === stream && one.type === TYPE.Data);
    expect(Buffer.concat(sent.map((one) => one.payload)).toString()).toBe("\0\u0005first");
    expect(agent.seen.at(-1)).toMatchObject({ stream, type: TYPE.Cancel });
    expect(connections).toEqual([]);
  });
});

test("queries are answered, also when the handler fails", async () => {
  const { ask, queries, replies } = await scene();
  for (const id of [5, 6, 7]) await ask({ kind: Kind.query, id, payload: Buffer.alloc(12) });
  queries[0]!.resolve(Buffer.from("answer"));
  queries[1]!.resolve(null);
  queries[2]!.reject(new Error("no resolver"));
  await settle();
  const answers = new Map(replies().map(({ id, payload }) => [id, Buffer.from(payload).toString()]));
  expect(answers).toEqual(
    new Map([
      [5, "answer"],
      [6, ""],
      [7, ""],
    ]),
  );
});

test("datagrams go both ways, and are dropped when the agent does not read", async () => {
  const { ask, datagrams, replies } = await scene();
  await ask({ kind: Kind.datagram, address: IPV4, port: 5000, sourcePort: 4000, payload: Buffer.from("out") });
  const [asked] = datagrams;
  expect(asked).toMatchObject({ address: "203.0.113.7", port: 5000, sourcePort: 4000 });
  expect(asked!.reply(Buffer.from("back"))).toBe(true);
  expect(asked!.reply(Buffer.alloc(MAX_DATAGRAM_BYTES + 1))).toBe(false);
  asked!.refuse("unreachable");
  await settle();
  expect(replies()).toMatchObject([
    { kind: EgressReplyKind.datagram, port: 5000, sourcePort: 4000 },
    { kind: EgressReplyKind.refuseDatagram, refusal: Refusal.unreachable },
  ]);
  let dropped = 0;
  for (let i = 0; i < 1000; i += 1) dropped += asked!.reply(Buffer.alloc(10_000)) ? 0 : 1;
  expect(dropped).toBeGreaterThan(800);
});

test("closing ends what is open and asks nothing more", async () => {
  const all = await scene();
  const { duplex } = await taken(all, 1);
  await all.ask(connect(2));
  all.session.close();
  expect(await all.session.ended).toBeUndefined();
  expect(all.connections[1]!.signal.aborted).toBe(true);
  await new Promise((resolve) => (duplex.closed ? resolve(null) : duplex.once("close", resolve)));
  await all.ask(connect(3));
  expect(all.connections).toHaveLength(2);
  expect(all.broken).toEqual([]);
});

test("an agent without an interface is an error that says so, and one that loses it ends the session", async () => {
  const { agent, attached } = fakePair();
  const channel = await attached;
  const handler: EgressHandler = { connect: () => {}, datagram: () => {}, query: async () => null };
  const opening = openEgress({ channel, explain: async (error) => error }, handler);
  const message = "cannot make the interface eth0: Operation not permitted";
  agent.say(EGRESS, { name: "Failed", body: { kind: 6, errno: 1, message } });
  await expect(opening).rejects.toMatchObject({ code: "RUNTIME_FAILED", why: message });
  const all = await scene();
  all.agent.say(EGRESS, { name: "Failed", body: { kind: 8, errno: 77, message: "the interface eth0 is gone" } });
  expect(await all.session.ended).toBeInstanceOf(Error);
  expect(all.broken).toEqual([]);
});
