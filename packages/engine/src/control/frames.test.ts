import { describe, expect } from "vitest";
import { fc, fuzz } from "../testing/fuzz.ts";
import { type Frame, frame, frames, Kind, MAX_JSON_BYTES, Unreadable } from "./frames.ts";

const WITH_BODY = [Kind.request, Kind.data, Kind.errorData, Kind.item, Kind.result, Kind.failure];
const some = fc.oneof(
  fc.tuple(fc.constantFrom(...WITH_BODY), fc.uint8Array({ maxLength: 3000 })),
  fc.tuple(fc.constantFrom(Kind.end, Kind.ack, Kind.started), fc.constant(new Uint8Array())),
);

async function* inPieces(bytes: Buffer, sizes: readonly number[]): AsyncGenerator<Buffer> {
  for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
    const size = sizes[turn % sizes.length] ?? 1;
    yield bytes.subarray(at, at + size);
    at += size;
  }
}

async function all(source: AsyncIterable<Buffer>): Promise<{ read: Frame[]; error: unknown }> {
  const read: Frame[] = [];
  try {
    for await (const one of frames(source)) read.push(one);
    return { read, error: null };
  } catch (error) {
    return { read, error };
  }
}

const sizes = fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 1, maxLength: 5 });

describe("frames of the control socket", () => {
  fuzz(
    "are what was sent, however the bytes are cut",
    [fc.array(some, { maxLength: 8 }), sizes],
    async (sent, cuts) => {
      const bytes = Buffer.concat(sent.map(([kind, body]) => frame(kind, body)));
      const { read, error } = await all(inPieces(bytes, cuts));
      expect(error).toBeNull();
      expect(read.map(({ kind, body }) => [kind, Buffer.from(body)])).toEqual(
        sent.map(([kind, body]) => [kind, Buffer.from(body)]),
      );
    },
  );

  fuzz("of no sense end in one typed error", [fc.uint8Array({ maxLength: 400 }), sizes], async (bytes, cuts) => {
    const { error } = await all(inPieces(Buffer.from(bytes), cuts));
    if (error !== null) expect(error).toBeInstanceOf(Unreadable);
  });

  fuzz("that claim more than there may be are refused by their head", [fc.nat({ max: 2 ** 31 - 1 })], async (more) => {
    const head = frame(Kind.request);
    head.writeUInt32LE(MAX_JSON_BYTES + 1 + (more % 2 ** 31), 1);
    async function* endless(): AsyncGenerator<Buffer> {
      yield head;
      throw new Error("it was read on");
    }
    expect((await all(endless())).error).toBeInstanceOf(Unreadable);
  });
});
