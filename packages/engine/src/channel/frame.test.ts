import { fc } from "../testing/fuzz.ts";
import { describe, expect, test } from "vitest";
import { rawFrame } from "../testing/fake-agent.ts";
import { fuzz } from "../testing/fuzz.ts";
import { AnswerHunt, attachBytes, HUNT_LIMIT_BYTES, newSession } from "./attach.ts";
import { Malformed } from "./codec.ts";
import { FrameDecoder } from "./frame.ts";
import { MAGIC_ATTACHED } from "./wire.gen.ts";

const TAG = 0x11223344;
const NONCE = Buffer.alloc(16, 0xab);
const MAGIC = Buffer.from(MAGIC_ATTACHED, "hex");

function answer(nonce = NONCE, generation = 1): Buffer {
  return Buffer.concat([MAGIC, Buffer.from([generation, 0, 0, 0]), nonce]);
}

/** Everything a decoder says about a stream cut into `chunks`, as text. */
function transcript(chunks: readonly Buffer[], hunting: boolean): string[] {
  const said: string[] = [];
  const decoder = new FrameDecoder(TAG, hunting ? new AnswerHunt(NONCE) : undefined);
  const sink = {
    answer: ({ generation }: { generation: number }) => said.push(`answer ${generation}`),
    frame: (stream: number, type: number, lane: number, payload: Buffer) =>
      said.push(`${stream} ${type} ${lane} ${payload.toString("hex")}`),
  };
  try {
    for (const chunk of chunks) decoder.push(chunk, sink as never);
  } catch (error) {
    if (!(error instanceof Malformed)) throw error;
    said.push("malformed");
  }
  return said;
}

function cut(bytes: Buffer, sizes: readonly number[]): Buffer[] {
  const chunks: Buffer[] = [];
  for (let at = 0, i = 0; at < bytes.length; i += 1) {
    const size = sizes.length === 0 ? bytes.length : Math.max(1, sizes[i % sizes.length] as number);
    chunks.push(Buffer.from(bytes.subarray(at, at + size)));
    at += size;
  }
  return chunks;
}

describe("frames", () => {
  test("a length above the limit is refused when the header is complete, before any payload", () => {
    const header = rawFrame({ type: 16, length: 65_537 }).subarray(0, 12);
    expect(transcript([header], false)).toEqual(["malformed"]);
    expect(transcript(cut(header, [1]), false)).toEqual(["malformed"]);
  });

  test("wrong tag and reserved bytes are refused", () => {
    expect(transcript([rawFrame({ type: 16, tag: TAG + 1 })], false)).toEqual(["malformed"]);
    expect(transcript([rawFrame({ type: 16, tag: TAG, reserved: 1 })], false)).toEqual(["malformed"]);
  });

  test("the tag of a session has no zero byte", () => {
    for (let i = 0; i < 2_000; i += 1) {
      const { tag } = newSession();
      expect([tag & 0xff, (tag >>> 8) & 0xff, (tag >>> 16) & 0xff, tag >>> 24]).not.toContain(0);
    }
  });

  test("a re-attach begins with as many zeros as complete any frame", () => {
    const session = newSession();
    const bytes = attachBytes(session, "anything");
    expect(bytes.subarray(0, 65_552).every((byte) => byte === 0)).toBe(true);
    expect(bytes.subarray(65_552).equals(attachBytes(session, "nothing"))).toBe(true);
  });

  test("after whole frames it begins with no more than a header of none", () => {
    const session = newSession();
    const bytes = attachBytes(session, "frames");
    expect(bytes.subarray(0, 12).equals(Buffer.alloc(12))).toBe(true);
    expect(bytes.subarray(12).equals(attachBytes(session, "nothing"))).toBe(true);
  });
});

describe("hunting", () => {
  test("skips rubbish, false starts and answers to somebody else, at every cut", () => {
    const rubbish = Buffer.concat([Buffer.from("xx"), MAGIC.subarray(0, 9), answer(Buffer.alloc(16, 1)), MAGIC]);
    const bytes = Buffer.concat([rubbish, answer(), rawFrame({ type: 21, stream: 3, tag: TAG })]);
    for (let size = 1; size <= bytes.length; size += 1) {
      expect(transcript(cut(bytes, [size]), true)).toEqual(["answer 1", "3 21 0 "]);
    }
  });

  test("gives up after a bounded number of bytes, holding next to nothing", () => {
    const hunt = new AnswerHunt(NONCE);
    const chunk = Buffer.alloc(65_536, MAGIC[0] as number);
    let pushed = 0;
    expect(() => {
      for (; pushed < 3 * HUNT_LIMIT_BYTES; pushed += chunk.length) hunt.push(chunk);
    }).toThrow(Malformed);
    expect(pushed).toBeLessThan(HUNT_LIMIT_BYTES + 2 * chunk.length);
  });

  test("generation 0 is reported, one that was not offered is refused", () => {
    expect(transcript([answer(NONCE, 0)], true)).toEqual(["answer 0"]);
    expect(transcript([answer(NONCE, 9)], true)).toEqual(["malformed"]);
  });
});

const validFrame = fc
  .record({
    stream: fc.nat(2 ** 31 - 1),
    type: fc.nat(255),
    lane: fc.nat(2),
    payload: fc.uint8Array({ maxLength: 300 }),
  })
  .map((frame) => rawFrame({ ...frame, tag: TAG }));

describe("fuzz", () => {
  fuzz(
    "results do not depend on chunking",
    [fc.array(validFrame, { maxLength: 8 }), fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 6 })],
    (frames, sizes) => {
      const bytes = Buffer.concat([Buffer.from("noise"), answer(), ...frames]);
      const whole = transcript([bytes], true);
      expect(whole).toHaveLength(1 + frames.length);
      expect(transcript(cut(bytes, sizes), true)).toEqual(whole);
    },
  );

  fuzz(
    "mutated streams: the same verdict at every chunking, and nothing but Malformed is thrown",
    [
      fc.array(validFrame, { minLength: 1, maxLength: 6 }),
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 5 }),
      fc.array(fc.integer({ min: 1, max: 60 }), { maxLength: 6 }),
    ],
    (frames, flips, sizes) => {
      const bytes = Buffer.concat([answer(), ...frames]);
      for (const [at, value] of flips) bytes[at % bytes.length] = value;
      expect(transcript(cut(bytes, sizes), true)).toEqual(transcript([bytes], true));
    },
  );

  fuzz("random bytes", [fc.uint8Array({ maxLength: 2_000 }), fc.boolean()], (bytes, hunting) => {
    expect(transcript(cut(Buffer.from(bytes), [7]), hunting)).toEqual(transcript([Buffer.from(bytes)], hunting));
  });
});
