import { once } from "node:events";
import { duplexPair } from "node:stream";
import { connect } from "node:tls";
import { describe, expect, test } from "vitest";
import { fc, fuzz } from "../testing/fuzz.ts";
import { readClientHello } from "./client-hello.ts";

/** What a real client sends first. */
async function realHello(servername: string, ALPNProtocols: string[] = []): Promise<Buffer> {
  const [near, far] = duplexPair();
  const client = connect({ socket: near, ALPNProtocols, ...(servername !== "" && { servername }) });
  client.on("error", () => undefined);
  const [bytes] = (await once(far, "data")) as [Buffer];
  far.destroy();
  client.destroy();
  return bytes;
}

/** The same handshake in records of `size` bytes. */
function cut(hello: Buffer, size: number): Buffer {
  const message = hello.subarray(5);
  const records: Buffer[] = [];
  for (let at = 0; at < message.length; at += size) {
    const part = message.subarray(at, at + size);
    records.push(Buffer.from([22, 3, 1, part.length >> 8, part.length & 0xff]), part);
  }
  return Buffer.concat(records);
}

const vector = (bytes: number, content: Buffer): Buffer => {
  const length = Buffer.alloc(bytes);
  length.writeUIntBE(content.length, 0, bytes);
  return Buffer.concat([length, content]);
};
const extension = (type: number, content: Buffer): Buffer =>
  Buffer.concat([Buffer.from([type >> 8, type & 0xff]), vector(2, content)]);
const serverName = (name: string, kind = 0): Buffer =>
  extension(0, vector(2, Buffer.concat([Buffer.from([kind]), vector(2, Buffer.from(name, "latin1"))])));

function made(...extensions: Buffer[]): Buffer {
  const body = Buffer.concat([
    Buffer.from([3, 3]),
    Buffer.alloc(32),
    vector(1, Buffer.alloc(0)),
    vector(2, Buffer.from([0x13, 1])),
    vector(1, Buffer.from([0])),
    vector(2, Buffer.concat(extensions)),
  ]);
  const message = Buffer.concat([Buffer.from([1]), vector(3, body)]);
  return Buffer.concat([Buffer.from([22, 3, 1]), vector(2, message)]);
}

describe("a real client's hello", () => {
  test("says its name, whole, piece by piece, and in records of any size", async () => {
    const hello = await realHello("a.example.com", ["h2", "http/1.1"]);
    const read = { at: "read", serverName: "a.example.com" };
    expect(readClientHello(hello)).toEqual(read);
    for (let length = 0; length < hello.length; length++) {
      expect(readClientHello(hello.subarray(0, length)).at).toBe("more");
    }
    for (const size of [1, 3, 100, 16_000]) expect(readClientHello(cut(hello, size))).toEqual(read);
  });

  test("may be followed by early data, and say no name", async () => {
    const hello = await realHello("");
    expect(readClientHello(hello)).toEqual({ at: "read", serverName: null });
    expect(readClientHello(Buffer.concat([hello, Buffer.from([23, 3, 3, 0, 1, 0])])).at).toBe("read");
  });
});

describe("what a server could read differently is refused", () => {
  const name = serverName("a.example.com");
  const plain = made(name);
  test("the made one is read", () =>
    expect(readClientHello(plain)).toEqual({ at: "read", serverName: "a.example.com" }));
  test.each([
    ["two names' extensions", made(name, name)],
    [
      "two names in one",
      made(
        extension(
          0,
          vector(
            2,
            Buffer.concat([
              Buffer.from([0]),
              vector(2, Buffer.from("a.b")),
              Buffer.from([0]),
              vector(2, Buffer.from("c.d")),
            ]),
          ),
        ),
      ),
    ],
    ["a name of another kind", made(serverName("a.b", 1))],
    ["a name with a zero", made(serverName("a.b\0.evil.com"))],
    [
      "bytes after the name",
      made(
        extension(
          0,
          Buffer.concat([
            vector(2, Buffer.concat([Buffer.from([0]), vector(2, Buffer.from("a.b"))])),
            Buffer.from([0]),
          ]),
        ),
      ),
    ],
    ["no hello", Buffer.from([22, 3, 1, 0, 4, 2, 0, 0, 0])],
    [
      "another message in its record",
      Buffer.concat([Buffer.from([22, 3, 1, 0, plain.length - 5 + 1]), plain.subarray(5), Buffer.from([0])]),
    ],
    ["another record within it", Buffer.concat([cut(plain, 20).subarray(0, 25), Buffer.from([21, 3, 3, 0, 2, 1, 0])])],
    ["an empty record", Buffer.from([22, 3, 1, 0, 0])],
    ["a record too long", Buffer.from([22, 3, 1, 0xff, 0xff])],
    ["a hello too long", Buffer.from([22, 3, 1, 0, 4, 1, 0xff, 0, 0])],
    [
      "an extension cut off",
      (() => {
        const bytes = made(extension(5, Buffer.alloc(4)));
        bytes[bytes.length - 5] = 9;
        return bytes;
      })(),
    ],
  ])("%s", (_, bytes) => expect(readClientHello(bytes).at).toBe("malformed"));

  test("a hello that never ends is given up", () => {
    const bytes = Buffer.concat([Buffer.from([22, 3, 1, 0, 4, 1, 0, 0x3f, 0xf0]), cut(Buffer.alloc(20_000), 1)]);
    expect(readClientHello(bytes).at).toBe("malformed");
  });
});

const near = fc.array(fc.tuple(fc.nat(300), fc.nat(255)), { maxLength: 4 }).map((changes) => {
  const bytes = made(serverName("a.example.com"), extension(16, vector(2, Buffer.from([2, 0x68, 0x32]))));
  for (const [at, value] of changes) bytes[at % bytes.length] = value;
  return bytes;
});

fuzz(
  "no bytes make the reader fail, or name a server that is no text",
  [fc.oneof(fc.uint8Array({ maxLength: 400 }), near)],
  (bytes) => {
    const result = readClientHello(Buffer.from(bytes));
    if (result.at === "read" && result.serverName !== null) expect(result.serverName).toMatch(/^[\x21-\x7e]*$/);
  },
);
