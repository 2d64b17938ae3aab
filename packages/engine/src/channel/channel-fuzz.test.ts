import { ERRORS } from "@bulkhead/contract";
import { duplexPair, type Duplex } from "node:stream";
import { describe, expect } from "vitest";
import { FakeAgent, rawFrame } from "../testing/fake-agent.ts";
import { fc, fuzz } from "../testing/fuzz.ts";
import { Channel } from "./channel.ts";
import { FrameEncoder } from "./frame.ts";
import type { OpenMessage } from "./grammar.ts";
import { INITIAL_CREDIT_BYTES, type Message } from "./wire.gen.ts";

const EMPTY = new Uint8Array();
const OPENERS: readonly OpenMessage[] = [
  {
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
  },
  { name: "Stat", body: { path: EMPTY, follow: true, user: "" } },
  { name: "WriteFile", body: { path: EMPTY, mode: 0, how: 0, makeParents: false, user: "" } },
  { name: "DialTcp", body: { address: "", port: 1 } },
  { name: "ListProcesses", body: {} },
];
const NOTHING: Message = { name: "Done", body: {} };
/** Per stream in the order of OPENERS, what an honest agent says. */
const HONEST: readonly (readonly [stream: number, lane: number, said: Message | "data"])[] = [
  [1, 0, { name: "Started", body: { pid: 5, stdoutOffset: 0n, stderrOffset: 0n } }],
  [4, 0, { name: "Opened", body: {} }],
  [1, 1, "data"],
  [5, 1, "data"],
  [3, 0, { name: "Opened", body: {} }],
  [1, 2, "data"],
  [4, 1, "data"],
  [2, 0, { name: "Failed", body: { kind: 2, errno: 2, message: "x" } }],
  [1, 1, { name: "End", body: {} }],
  [1, 2, { name: "End", body: {} }],
  [3, 0, { name: "Written", body: { bytes: 0n } }],
  [
    1,
    0,
    { name: "Exited", body: { code: 1, signal: 0, coreDumped: false, userMs: 1n, systemMs: 1n, maxRssBytes: 1n } },
  ],
  [3, 0, NOTHING],
  [1, 0, NOTHING],
  [5, 1, { name: "End", body: {} }],
  [5, 0, NOTHING],
  [4, 1, { name: "End", body: {} }],
  [4, 0, NOTHING],
];

interface Attempt {
  readonly bytes: (tag: number) => Buffer;
  readonly sizes: readonly number[];
}

/** Lets an agent say `bytes` and writes down everything the host's side made of them. */
async function play(attempt: Attempt): Promise<string[]> {
  const [host, inside] = duplexPair();
  const agent = new FakeAgent(inside as Duplex);
  const channel = await Channel.attach({ readable: host, writable: host, fresh: true });
  const heard: string[] = [];
  OPENERS.forEach((opener, index) => {
    const note = (text: string): void => void heard.push(`${index + 1} ${text}`);
    const stream = channel.open(opener, {
      subject: "it",
      message: ({ name }) => note(name),
      end: (end) => note(end.how === "done" ? "done" : end.error.code),
    });
    let bytes = 0;
    for (const lane of [stream.out, stream.err])
      lane.consume(
        (piece) => (bytes += piece.length),
        () => note(`end of lane after ${bytes}`),
      );
  });
  const bytes = attempt.bytes(agent.tag);
  for (let at = 0, i = 0; at < bytes.length; i += 1) {
    const size = attempt.sizes[i % attempt.sizes.length] ?? bytes.length;
    host.emit("data", Buffer.from(bytes.subarray(at, at + size)));
    at += size;
  }
  expect(channel.buffered).toBeLessThanOrEqual(OPENERS.length * 2 * INITIAL_CREDIT_BYTES);
  channel.close();
  const reason = await channel.closed;
  return [...heard, `${reason.code} ${reason.why}`];
}

function honest(tag: number): Buffer {
  const encoder = new FrameEncoder(tag);
  return Buffer.concat(
    HONEST.flatMap(([stream, lane, said]) =>
      said === "data" ? encoder.data(stream, lane, Buffer.alloc(100, 1)) : [encoder.message(stream, lane, said)],
    ),
  );
}

const sizes = fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 5 });
const frame = fc.record({
  stream: fc.nat(6),
  type: fc.oneof(fc.nat(70), fc.constantFrom(1, 3, 16, 17, 18, 20, 21, 34, 37, 51, 59, 60)),
  lane: fc.nat(3),
  payload: fc.oneof(fc.constant(EMPTY), fc.uint8Array({ maxLength: 40 })),
});

describe("whatever an agent says, the host stays as it is", () => {
  fuzz("honest words, at every chunking", [sizes], async (cuts) => {
    const heard = await play({ bytes: honest, sizes: cuts });
    expect(heard.at(-1)).toBe(`CHANNEL_CLOSED ${ERRORS.CHANNEL_CLOSED.why}`);
    expect(heard.filter((line) => line.endsWith("done"))).toHaveLength(4);
  });

  fuzz(
    "honest words with bytes changed: one verdict at every chunking",
    [fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 }), sizes],
    async (flips, cuts) => {
      const bytes = (tag: number): Buffer => {
        const said = honest(tag);
        for (const [at, value] of flips) said[at % said.length] = (said[at % said.length] as number) ^ value;
        return said;
      };
      expect(await play({ bytes, sizes: cuts })).toEqual(await play({ bytes, sizes: [] }));
    },
  );

  fuzz("well-formed frames in any order", [fc.array(frame, { maxLength: 30 }), sizes], async (frames, cuts) => {
    const bytes = (tag: number): Buffer => Buffer.concat(frames.map((one) => rawFrame({ ...one, tag })));
    const heard = await play({ bytes, sizes: cuts });
    expect(heard).toEqual(await play({ bytes, sizes: [] }));
    for (let id = 1; id <= OPENERS.length; id += 1) {
      const ends = heard.filter((line) => line === `${id} done` || new RegExp(`^${id} [A-Z]+_`).test(line));
      expect(ends).toHaveLength(1);
    }
  });

  fuzz("random bytes", [fc.uint8Array({ maxLength: 500 }), sizes], async (random, cuts) => {
    const bytes = (): Buffer => Buffer.from(random);
    expect(await play({ bytes, sizes: cuts })).toEqual(await play({ bytes, sizes: [] }));
  });
});
