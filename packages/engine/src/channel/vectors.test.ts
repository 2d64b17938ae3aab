import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { Malformed, WireReader } from "./codec.ts";
import { FrameDecoder, FrameEncoder, HEADER_BYTES, TAG_BYTES } from "./frame.ts";
import { readMessage, TYPE, type Message } from "./wire.gen.ts";

interface Vector {
  readonly name: string;
  readonly message: string;
  readonly stream: number;
  readonly lane: number;
  readonly tag: number;
  readonly fields: Record<string, unknown>;
  readonly hex: string;
}
const file = JSON.parse(readFileSync(new URL("../../../../agent/wire/vectors-1.json", import.meta.url), "utf8")) as {
  readonly vectors: readonly Vector[];
  readonly invalid: readonly { readonly name: string; readonly tag: number; readonly hex: string }[];
};

/** As the vectors write values: 64-bit numbers as decimal strings, bytes as hex. */
function plain(value: unknown): unknown {
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value === "object" && value !== null)
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, plain(v)]));
  return value;
}

function decode(bytes: Buffer, tag: number): { stream: number; type: number; lane: number; payload: Buffer }[] {
  const frames: { stream: number; type: number; lane: number; payload: Buffer }[] = [];
  const frame = (stream: number, type: number, lane: number, payload: Buffer): void => {
    frames.push({ stream, type, lane, payload });
  };
  new FrameDecoder(tag).push(bytes, { answer: () => {}, frame });
  return frames;
}

describe("vectors of generation 1", () => {
  test.each(file.vectors.map((v) => [v.name, v] as const))("%s", (_name, vector) => {
    const bytes = Buffer.from(vector.hex, "hex");
    const [frame] = decode(bytes, vector.tag);
    expect(frame).toMatchObject({ stream: vector.stream, lane: vector.lane });
    if (frame === undefined) return;
    const encoder = new FrameEncoder(vector.tag);
    if (frame.type === TYPE.Data) {
      expect(frame.payload.toString("hex")).toBe(vector.fields["data"]);
      expect(Buffer.concat(encoder.data(frame.stream, frame.lane, frame.payload)).equals(bytes)).toBe(true);
      return;
    }
    const reader = new WireReader(frame.payload);
    const message = readMessage(frame.type, reader) as Message;
    reader.finish();
    expect(message.name).toBe(vector.message);
    expect(plain(message.body)).toEqual(vector.fields);
    expect(encoder.message(frame.stream, frame.lane, message).equals(bytes)).toBe(true);
  });

  test.each(file.invalid.map((v) => [v.name, v] as const))("refused: %s", (_name, vector) => {
    const read = (): void => {
      const frames = decode(Buffer.from(vector.hex, "hex"), vector.tag);
      if (frames.length === 0) throw new Malformed("incomplete");
      for (const { type, payload } of frames) {
        const reader = new WireReader(payload);
        if (type !== TYPE.Data && readMessage(type, reader) === null) throw new Malformed("unknown type");
        if (type !== TYPE.Data) reader.finish();
      }
    };
    expect(read).toThrow(Malformed);
  });

  test("a data frame of every size class reads back", () => {
    for (const size of [0, 1, 4095, 4096, 65_536]) {
      const payload = Buffer.alloc(size, 7);
      const bytes = Buffer.concat(new FrameEncoder(0x01020304).data(9, 1, payload));
      expect(bytes.length).toBe(HEADER_BYTES + size + TAG_BYTES);
      expect(decode(bytes, 0x01020304)[0]?.payload.equals(payload)).toBe(true);
    }
  });
});
