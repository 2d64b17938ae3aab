import { duplexPair } from "node:stream";
import type { Duplex } from "node:stream";
import { Channel, type AttachOptions } from "../channel/channel.ts";
import { WireReader } from "../channel/codec.ts";
import { FrameDecoder, FrameEncoder } from "../channel/frame.ts";
import {
  GENERATION,
  type Hello,
  MAGIC_ATTACH,
  MAGIC_ATTACHED,
  type Message,
  readMessage,
  TYPE,
} from "../channel/wire.gen.ts";

const ATTACH_BYTES = 40;
const MAGIC = Buffer.from(MAGIC_ATTACH, "hex");

export interface Seen {
  readonly stream: number;
  readonly type: number;
  readonly lane: number;
  readonly message: Message | null;
  readonly payload: Buffer;
}

export interface RawFrame {
  readonly length?: number;
  readonly stream?: number;
  readonly type: number;
  readonly lane?: number;
  readonly reserved?: number;
  readonly payload?: Uint8Array;
  readonly tag?: number;
}

export const HELLO: Hello = { agentVersion: "0", kernelRelease: "6", bootId: "b", pid: 1, reattached: false };

/** The agent's end, to say things no honest agent says. */
export class FakeAgent {
  readonly socket: Duplex;
  readonly seen: Seen[] = [];
  tag = 0;
  nonce: Buffer = Buffer.alloc(0);
  onFrame: (seen: Seen) => void = () => {};
  onAttach: () => void = () => {
    this.answer();
    this.say(0, { name: "Hello", body: HELLO });
  };
  #before = Buffer.alloc(0);
  #decoder: FrameDecoder | null = null;

  constructor(socket: Duplex) {
    this.socket = socket;
    socket.on("error", () => {});
    socket.on("data", (chunk: Buffer) => this.#read(chunk));
  }

  #read(chunk: Buffer): void {
    if (this.#decoder === null) {
      this.#before = Buffer.concat([this.#before, chunk]);
      const at = this.#before.indexOf(MAGIC);
      if (at === -1 || this.#before.length < at + ATTACH_BYTES) return;
      this.tag = this.#before.readUInt32LE(at + 20);
      this.nonce = this.#before.subarray(at + 24, at + ATTACH_BYTES);
      this.#decoder = new FrameDecoder(this.tag);
      this.onAttach();
      chunk = this.#before.subarray(at + ATTACH_BYTES);
    }
    this.#decoder.push(chunk, {
      answer: () => {},
      frame: (stream, type, lane, payload) => {
        const message = type === TYPE.Data ? null : readMessage(type, new WireReader(payload));
        const seen = { stream, type, lane, message, payload: Buffer.from(payload) };
        this.seen.push(seen);
        // Unlike a socket, a duplexPair delivers within the other side's write.
        process.nextTick(() => this.onFrame(seen));
      },
    });
  }

  answer(parts: { generation?: number; nonce?: Buffer; reserved?: number } = {}): void {
    const head = Buffer.from([parts.generation ?? GENERATION, parts.reserved ?? 0, 0, 0]);
    this.raw(Buffer.concat([Buffer.from(MAGIC_ATTACHED, "hex"), head, parts.nonce ?? this.nonce]));
  }

  say(stream: number, message: Message, lane = 0): void {
    this.raw(new FrameEncoder(this.tag).message(stream, lane, message));
  }

  data(stream: number, lane: number, payload: Uint8Array): void {
    this.raw(Buffer.concat(new FrameEncoder(this.tag).data(stream, lane, payload)));
  }

  frame(frame: RawFrame): void {
    this.raw(rawFrame({ tag: this.tag, ...frame }));
  }

  raw(bytes: Uint8Array): void {
    if (!this.socket.destroyed && !this.socket.writableEnded) this.socket.write(bytes);
  }

  count(type: number): number {
    return this.seen.filter((one) => one.type === type).length;
  }
}

export function rawFrame(frame: RawFrame): Buffer {
  const payload = frame.payload ?? Buffer.alloc(0);
  const bytes = Buffer.alloc(16 + payload.length);
  bytes.writeUInt32LE(frame.length ?? payload.length, 0);
  bytes.writeUInt32LE(frame.stream ?? 0, 4);
  bytes[8] = frame.type;
  bytes[9] = frame.lane ?? 0;
  bytes.writeUInt16LE(frame.reserved ?? 0, 10);
  bytes.set(payload, 12);
  bytes.writeUInt32LE(frame.tag ?? 0, 12 + payload.length);
  return bytes;
}

export type FakeOptions = Partial<Omit<AttachOptions, "readable" | "writable">>;

/** A channel and the fake at its other end, before the attach is answered. */
export function fakePair(options: FakeOptions = {}): { agent: FakeAgent; attached: Promise<Channel> } {
  const [host, inside] = duplexPair();
  const agent = new FakeAgent(inside as Duplex);
  const attached = Channel.attach({ readable: host, writable: host, fresh: true, ...options });
  attached.catch(() => {});
  return { agent, attached };
}
