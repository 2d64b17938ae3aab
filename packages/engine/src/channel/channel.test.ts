import { BulkheadError } from "@bulkhead/contract";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { CONFIGURE } from "../testing/real-agent.ts";
import { type FakeAgent, type FakeOptions, fakePair, HELLO } from "../testing/fake-agent.ts";
import type { Channel } from "./channel.ts";
import { HUNT_LIMIT_BYTES } from "./attach.ts";
import type { OpenMessage } from "./grammar.ts";
import type { ChannelStream, StreamEnd, StreamMessage } from "./stream.ts";
import { INITIAL_CREDIT_BYTES, LANE, MAX_STREAMS, TYPE, type Message } from "./wire.gen.ts";

const EMPTY = new Uint8Array();
const EXEC: OpenMessage = {
  name: "Exec",
  body: {
    argv: [EMPTY],
    env: [],
    cwd: EMPTY,
    user: "",
    stdin: 1,
    pty: false,
    rows: 0,
    cols: 0,
    rlimits: [],
    killOnCancel: false,
    record: false,
  },
};
const STAT: OpenMessage = { name: "Stat", body: { path: EMPTY, follow: true, user: "" } };
const WRITE: OpenMessage = { name: "WriteFile", body: { path: EMPTY, mode: 0, how: 0, makeParents: false, user: "" } };
const STARTED: Message = { name: "Started", body: { pid: 7, stdoutOffset: 0n, stderrOffset: 0n } };
const EXITED: Message = {
  name: "Exited",
  body: { code: 0, signal: 0, coreDumped: false, userMs: 0n, systemMs: 0n, maxRssBytes: 0n },
};
const limitHit = (limit: number): { limit: number; pid: number; command: Uint8Array } => ({
  limit,
  pid: 1,
  command: EMPTY,
});
const DONE: Message = { name: "Done", body: {} };
const END: Message = { name: "End", body: {} };

let uncaught: unknown[] = [];
const record = (error: unknown): void => void uncaught.push(error);
beforeEach(() => {
  uncaught = [];
  process.on("uncaughtException", record);
  process.on("unhandledRejection", record);
});
afterEach(() => {
  process.off("uncaughtException", record);
  process.off("unhandledRejection", record);
  expect(uncaught).toEqual([]);
});

interface Setup {
  readonly agent: FakeAgent;
  readonly channel: Channel;
  readonly broken: BulkheadError[];
}

async function setup(options: FakeOptions = {}): Promise<Setup> {
  const broken: BulkheadError[] = [];
  const { agent, attached } = fakePair({ onBroken: (error) => broken.push(error), ...options });
  return { agent, channel: await attached, broken };
}

interface Opened {
  readonly stream: ChannelStream;
  readonly messages: StreamMessage[];
  readonly ends: StreamEnd[];
}

function open(channel: Channel, message: OpenMessage): Opened {
  const messages: StreamMessage[] = [];
  const ends: StreamEnd[] = [];
  const stream = channel.open(message, { subject: "it", message: (m) => messages.push(m), end: (e) => ends.push(e) });
  return { stream, messages, ends };
}

const settle = (): Promise<void> => sleep(5);

describe("attach", () => {
  test("fresh: settings ride along, Hello comes back", async () => {
    const { agent, channel } = await setup({ configure: CONFIGURE });
    expect(channel.hello).toEqual(HELLO);
    expect(agent.seen.map((one) => one.message?.name)).toEqual(["Configure"]);
  });

  test("re-attach: the rest of an old frame and answers to others are skipped", async () => {
    const { agent, attached } = fakePair({ fresh: false });
    agent.onAttach = () => {
      agent.raw(Buffer.alloc(70_000, 0x62));
      agent.answer({ nonce: Buffer.alloc(16, 9) });
      agent.answer();
      agent.say(0, { name: "Hello", body: HELLO });
    };
    expect((await attached).hello.pid).toBe(1);
  });

  const refused: readonly (readonly [string, (agent: FakeAgent) => void])[] = [
    ["rubbish without end", (agent) => agent.raw(Buffer.alloc(HUNT_LIMIT_BYTES + 70_000))],
    ["no common generation", (agent) => agent.answer({ generation: 0 })],
    ["a generation not offered", (agent) => agent.answer({ generation: 2 })],
    ["reserved bytes in the answer", (agent) => agent.answer({ reserved: 1 })],
    ["a frame before Hello", (agent) => (agent.answer(), agent.say(1, DONE))],
    ["a limit before Hello", (agent) => (agent.answer(), agent.say(0, { name: "LimitHit", body: limitHit(1) }))],
    ["a Pong before Hello", (agent) => (agent.answer(), agent.say(0, { name: "Pong", body: { token: 1n } }))],
    ["Hello on a stream", (agent) => (agent.answer(), agent.say(1, { name: "Hello", body: HELLO }))],
  ];
  test.each(refused)("refused: %s", async (_name, act) => {
    const { agent, attached } = fakePair();
    agent.onAttach = () => act(agent);
    await expect(attached).rejects.toMatchObject({ code: "CHANNEL_PROTOCOL" });
  });

  test("a silent agent: TIMEOUT; an aborted attach: ABORTED; an agent that has gone: SANDBOX_GONE", async () => {
    const silent = fakePair({ timeoutMs: 20 });
    silent.agent.onAttach = () => {};
    await expect(silent.attached).rejects.toMatchObject({ code: "TIMEOUT" });
    await expect(fakePair({ signal: AbortSignal.abort() }).attached).rejects.toMatchObject({ code: "ABORTED" });
    const gone = fakePair();
    gone.agent.onAttach = () => gone.agent.socket.end();
    await expect(gone.attached).rejects.toMatchObject({ code: "SANDBOX_GONE" });
  });
});

describe("a violation ends the channel, every stream, and nothing else", () => {
  const violations: readonly (readonly [string, OpenMessage, (agent: FakeAgent) => void])[] = [
    ["wrong tag", STAT, (a) => a.frame({ type: TYPE.Done, stream: 1, tag: 1 })],
    ["a length above the limit", STAT, (a) => a.frame({ type: TYPE.Done, stream: 1, length: 65_537 })],
    ["reserved bytes", STAT, (a) => a.frame({ type: TYPE.Done, stream: 1, reserved: 3 })],
    ["unknown type", STAT, (a) => a.frame({ type: 200, stream: 1 })],
    ["type 0", STAT, (a) => a.frame({ type: 0 })],
    ["wrong direction", STAT, (a) => a.say(1, STAT)],
    ["Cancel from the agent", STAT, (a) => a.say(1, { name: "Cancel", body: {} })],
    ["Ping from the agent", STAT, (a) => a.say(0, { name: "Ping", body: { token: 1n } })],
    ["a stream that was never opened", STAT, (a) => a.say(2, DONE)],
    ["a stream message on the session", STAT, (a) => a.say(0, DONE)],
    ["data on the session", STAT, (a) => a.data(0, 1, Buffer.from("x"))],
    ["a lane where none belongs", STAT, (a) => a.say(1, DONE, 1)],
    ["a second Hello", STAT, (a) => a.say(0, { name: "Hello", body: HELLO })],
    ["a limit that there is not", STAT, (a) => a.say(0, { name: "LimitHit", body: limitHit(9) })],
    ["a limit on a stream", STAT, (a) => a.say(1, { name: "LimitHit", body: limitHit(1) })],
    ["a Pong nobody asked for", STAT, (a) => a.say(0, { name: "Pong", body: { token: 99n } })],
    ["Done before the answer", STAT, (a) => a.say(1, DONE)],
    ["a message of another kind of stream", STAT, (a) => a.say(1, STARTED)],
    ["data on a stream without lanes", STAT, (a) => a.data(1, 1, Buffer.from("x"))],
    ["credit on a stream without lanes", STAT, (a) => a.say(1, { name: "Credit", body: { bytes: 1 } })],
    ["a truncated message", EXEC, (a) => a.frame({ type: TYPE.Started, stream: 1, payload: Buffer.alloc(5) })],
    [
      "bytes after the last field",
      EXEC,
      (a) => a.frame({ type: TYPE.End, stream: 1, lane: 1, payload: Buffer.alloc(1) }),
    ],
    [
      "a string that is not UTF-8",
      EXEC,
      (a) => a.frame({ type: TYPE.Failed, stream: 1, payload: Buffer.from([1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0xff]) }),
    ],
    [
      "a string longer than its frame",
      EXEC,
      (a) => a.frame({ type: TYPE.Failed, stream: 1, payload: Buffer.from([1, 0, 0, 0, 0, 0, 255, 255, 255, 255]) }),
    ],
    ["data before Started", EXEC, (a) => a.data(1, LANE.out, Buffer.from("x"))],
    ["Exited before Started", EXEC, (a) => a.say(1, EXITED)],
    ["Started twice", EXEC, (a) => (a.say(1, STARTED), a.say(1, STARTED))],
    ["Exited twice", EXEC, (a) => (a.say(1, STARTED), a.say(1, EXITED), a.say(1, EXITED))],
    ["Done before the lanes ended", EXEC, (a) => (a.say(1, STARTED), a.say(1, EXITED), a.say(1, DONE))],
    ["data on the lane in", EXEC, (a) => (a.say(1, STARTED), a.data(1, LANE.in, Buffer.from("x")))],
    ["data on lane 9", EXEC, (a) => (a.say(1, STARTED), a.data(1, 9, Buffer.from("x")))],
    ["End twice", EXEC, (a) => (a.say(1, STARTED), a.say(1, END, LANE.out), a.say(1, END, LANE.out))],
    [
      "data after End",
      EXEC,
      (a) => (a.say(1, STARTED), a.say(1, END, LANE.out), a.data(1, LANE.out, Buffer.from("x"))),
    ],
    ["more credit than was used", WRITE, (a) => a.say(1, { name: "Credit", body: { bytes: 1 } }, LANE.in)],
    [
      "credit on a lane of its own",
      EXEC,
      (a) => (a.say(1, STARTED), a.say(1, { name: "Credit", body: { bytes: 1 } }, LANE.out)),
    ],
    [
      "Done twice",
      STAT,
      (a) => (a.say(1, { name: "Failed", body: { kind: 2, errno: 2, message: "" } }), a.say(1, DONE)),
    ],
    [
      "data beyond the credit",
      EXEC,
      (a) => {
        a.say(1, STARTED);
        for (let sent = 0; sent <= INITIAL_CREDIT_BYTES; sent += 65_536) a.data(1, LANE.out, Buffer.alloc(65_536));
      },
    ],
  ];
  test.each(violations)("%s", async (name, opener, act) => {
    const { agent, channel, broken } = await setup();
    const { ends } = open(channel, opener);
    const other = open(channel, EXEC);
    await settle();
    // The third stream must not make the second id valid.
    if (name === "a stream that was never opened") agent.say(3, DONE);
    else act(agent);
    const error = await channel.closed;
    expect(error.code).toBe("CHANNEL_PROTOCOL");
    expect(broken).toEqual([error]);
    expect(other.ends).toEqual([{ how: "broken", error }]);
    if (name !== "Done twice") expect(ends).toEqual([{ how: "broken", error }]);
    expect(() => channel.open(STAT, { subject: "it", end: () => {} })).toThrow(error);
    await expect(channel.ping()).rejects.toBe(error);
    agent.raw(Buffer.alloc(100_000));
    await settle();
    expect(channel.streams).toBe(0);
  });

  test("a Pong flood ends at its first unasked Pong", async () => {
    const { agent, channel, broken } = await setup();
    agent.onFrame = ({ message }) => {
      if (message?.name !== "Ping") return;
      for (let i = 0; i < 1_000; i += 1) agent.say(0, { name: "Pong", body: { token: message.body.token } });
    };
    await channel.ping();
    expect((await channel.closed).code).toBe("CHANNEL_PROTOCOL");
    expect(broken).toHaveLength(1);
  });
});

describe("streams", () => {
  test("end of file fails every stream and every ping", async () => {
    const { agent, channel, broken } = await setup();
    const { ends, stream } = open(channel, EXEC);
    const readable = stream.out.readable();
    const ping = channel.ping();
    agent.socket.end();
    await expect(ping).rejects.toMatchObject({ code: "SANDBOX_GONE" });
    expect(ends).toMatchObject([{ how: "broken", error: { code: "SANDBOX_GONE" } }]);
    expect(broken).toEqual([]);
    expect(readable.errored).toMatchObject({ code: "SANDBOX_GONE" });
  });

  test(`${MAX_STREAMS} at once, then STREAM_LIMIT, then room again`, async () => {
    const { agent, channel } = await setup();
    const opened = Array.from({ length: MAX_STREAMS }, () => open(channel, STAT));
    expect(() => open(channel, STAT)).toThrow(expect.objectContaining({ code: "STREAM_LIMIT" }));
    for (const { stream } of opened)
      agent.say(stream.id, { name: "Failed", body: { kind: 2, errno: 2, message: "no\u001b[2Jthing\n" } });
    await settle();
    expect(opened.every(({ ends }) => ends.length === 1)).toBe(true);
    expect(opened[0]?.ends[0]).toMatchObject({
      error: { code: "FILE_NOT_FOUND", message: "it does not exist", why: "no [2Jthing" },
    });
    expect(open(channel, STAT).stream.id).toBe(MAX_STREAMS + 1);
  });

  test("a cancelled stream keeps its place until its end, and never grows", async () => {
    const { agent, channel } = await setup();
    const { stream, ends } = open(channel, EXEC);
    agent.say(1, STARTED);
    await settle();
    stream.cancel();
    for (let sent = 0; sent < INITIAL_CREDIT_BYTES; sent += 65_536) agent.data(1, LANE.out, Buffer.alloc(65_536));
    await settle();
    expect([channel.streams, channel.buffered, agent.count(TYPE.Cancel)]).toEqual([1, 0, 1]);
    agent.say(1, DONE);
    await settle();
    expect([channel.streams, ends.length]).toEqual([0, 0]);
    agent.data(1, LANE.out, Buffer.alloc(1));
    expect((await channel.closed).code).toBe("CHANNEL_PROTOCOL");
  });

  test("a cancelled stream that sends more than its credit is a violation", async () => {
    const { agent, channel } = await setup();
    const { stream } = open(channel, EXEC);
    agent.say(1, STARTED);
    await settle();
    stream.cancel();
    for (let sent = 0; sent <= INITIAL_CREDIT_BYTES; sent += 65_536) agent.data(1, LANE.out, Buffer.alloc(65_536));
    expect((await channel.closed).why).toBe("data without credit");
  });

  test("a slow reader stalls itself and nobody else; reading returns credit", async () => {
    const { agent, channel } = await setup();
    const [slow, quick] = [open(channel, EXEC), open(channel, EXEC)];
    agent.say(1, STARTED);
    agent.say(2, STARTED);
    for (let sent = 0; sent < INITIAL_CREDIT_BYTES; sent += 65_536) agent.data(1, LANE.out, Buffer.alloc(65_536));
    let got = 0;
    quick.stream.out.consume(
      (piece) => (got += piece.length),
      () => {},
    );
    for (let round = 0; round < 20; round += 1) {
      agent.data(2, LANE.out, Buffer.alloc(65_536));
      await settle();
    }
    expect(got).toBe(20 * 65_536);
    expect(channel.buffered).toBe(INITIAL_CREDIT_BYTES);
    expect(agent.seen.some((one) => one.stream === 1 && one.type === TYPE.Credit)).toBe(false);
    slow.stream.out.readable().resume();
    await settle();
    expect(agent.seen.some((one) => one.stream === 1 && one.type === TYPE.Credit)).toBe(true);
    expect(channel.buffered).toBe(0);
  });

  test("data goes out only for credit, fair between streams, control first", async () => {
    const { agent, channel } = await setup();
    const [one, two] = [open(channel, WRITE), open(channel, WRITE)];
    let accepted = 0;
    one.stream.in.write(Buffer.alloc(4 * INITIAL_CREDIT_BYTES), () => (accepted += 1));
    two.stream.in.write(Buffer.alloc(INITIAL_CREDIT_BYTES), () => (accepted += 1));
    two.stream.in.end();
    await sleep(20);
    const sent = (id: number): number =>
      agent.seen.filter((s) => s.stream === id && s.type === TYPE.Data).reduce((sum, s) => sum + s.payload.length, 0);
    expect([sent(1), sent(2), accepted]).toEqual([INITIAL_CREDIT_BYTES, INITIAL_CREDIT_BYTES, 1]);
    const data = agent.seen.filter((s) => s.type === TYPE.Data).map((s) => s.stream);
    // The first write finds the socket empty; after that the two take turns.
    const turns = data.slice(1).filter((id, i, rest) => i > 0 && id !== rest[i - 1]);
    expect(turns.length).toBeGreaterThanOrEqual(4);
    agent.say(1, { name: "Credit", body: { bytes: 1_000 } }, LANE.in);
    await settle();
    expect(sent(1)).toBe(INITIAL_CREDIT_BYTES + 1_000);
    one.stream.cancel();
    expect(accepted).toBe(2);
  });

  test("an agent that never reads does not make the host queue credit", async () => {
    const { agent, channel } = await setup();
    agent.socket.pause();
    const { stream } = open(channel, EXEC);
    stream.out.discard();
    agent.say(1, STARTED);
    // Credit is given when it can be sent: sooner or later guessing ahead is a violation, not a queue.
    for (let i = 0; i < 40_000 && channel.streams > 0; i += 1) {
      agent.data(1, LANE.out, Buffer.alloc(65_536));
      if (i % 16 === 0) await sleep(0);
    }
    expect((await channel.closed).why).toBe("data without credit");
  }, 30_000);

  test("an agent that ends streams without reading them cannot make requests pile up", async () => {
    const { agent, channel } = await setup();
    agent.socket.pause();
    const large: OpenMessage = { name: "Stat", body: { path: Buffer.alloc(60_000), follow: true, user: "" } };
    let opened = 0;
    const pile = async (): Promise<void> => {
      for (; opened < 2_000; opened += 1) {
        const { stream } = open(channel, large);
        agent.say(stream.id, { name: "Failed", body: { kind: 1, errno: 0, message: "" } });
        if (opened % 16 === 0) await sleep(0);
      }
    };
    await expect(pile()).rejects.toMatchObject({ code: "STREAM_LIMIT" });
    expect(opened).toBeLessThan(100);
    agent.socket.resume();
    await sleep(20);
    expect(open(channel, STAT).stream.id).toBe(opened + 1);
  });

  test("pings: late answers are no violation, unanswered ones are bounded", async () => {
    const { agent, channel } = await setup();
    const tokens: bigint[] = [];
    agent.onFrame = ({ message }) => message?.name === "Ping" && tokens.push(message.body.token);
    await expect(channel.ping({ timeoutMs: 5 })).rejects.toMatchObject({ code: "TIMEOUT" });
    agent.say(0, { name: "Pong", body: { token: tokens[0] as bigint } });
    await settle();
    const many = Array.from({ length: 100 }, () => channel.ping({ timeoutMs: 30 }));
    await expect(Promise.allSettled(many)).resolves.toSatisfy((all: PromiseSettledResult<number>[]) =>
      all.every((one) => one.status === "rejected"),
    );
    expect(tokens).toHaveLength(65);
    expect(channel.streams).toBe(0);
  });
});
