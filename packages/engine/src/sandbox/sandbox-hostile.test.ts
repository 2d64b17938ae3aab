import { type BulkheadError, type Plan } from "@bulkhead/contract";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { WireWriter } from "../channel/codec.ts";
import {
  type Entry,
  INITIAL_CREDIT_BYTES,
  LANE,
  type Message,
  TYPE,
  writeEntry,
  writeWatchEvent,
} from "../channel/wire.gen.ts";
import { type FakeAgent, fakePair } from "../testing/fake-agent.ts";
import { Sandbox, type SandboxEnd } from "./sandbox.ts";

const DONE: Message = { name: "Done", body: {} };
const END: Message = { name: "End", body: {} };
const STARTED: Message = { name: "Started", body: { pid: 7, stdoutOffset: 0n, stderrOffset: 0n } };
const EXITED: Message = {
  name: "Exited",
  body: { code: 3, signal: 0, coreDumped: false, userMs: 0n, systemMs: 0n, maxRssBytes: 0n },
};

let uncaught: unknown[] = [];
const record = (error: unknown): void => void uncaught.push(error);
beforeEach(() => {
  uncaught = [];
  process.on("uncaughtException", record);
  process.on("unhandledRejection", record);
});
afterEach(async () => {
  await sleep(1);
  process.off("uncaughtException", record);
  process.off("unhandledRejection", record);
  expect(uncaught).toEqual([]);
});

interface Setup {
  readonly agent: FakeAgent;
  readonly box: Sandbox;
  readonly broken: BulkheadError[];
  readonly end: (end: SandboxEnd) => void;
  readonly released: () => number;
}

/** @param act what the agent says to each frame. */
async function setup(act: (agent: FakeAgent, name: string, stream: number) => void): Promise<Setup> {
  const broken: BulkheadError[] = [];
  const { agent, attached } = fakePair({ onBroken: (error) => broken.push(error) });
  agent.onFrame = ({ message, stream }) => act(agent, message?.name ?? "Data", stream);
  const ended = Promise.withResolvers<SandboxEnd>();
  let released = 0;
  const release = async (): Promise<void> => void (released += 1);
  const box = new Sandbox({ id: "s1", plan: {} as Plan, channel: await attached, ended: ended.promise, release });
  return { agent, box, broken, end: ended.resolve, released: () => released };
}

const ENTRY: Entry = {
  path: Buffer.from("a"),
  kind: 1,
  mode: 0o100644,
  uid: 0,
  gid: 0,
  owner: "ro\u001bot",
  group: "",
  size: 2n ** 64n - 1n,
  mtimeNs: 0n,
  target: new Uint8Array(),
};

function entryRecord(entry: Entry): Buffer {
  const body = new WireWriter();
  writeEntry(body, entry);
  const bytes = body.finish();
  const length = Buffer.alloc(4);
  length.writeUInt32LE(bytes.length);
  return Buffer.concat([length, bytes]);
}

describe("records from a hostile agent", () => {
  const bad: readonly (readonly [string, Buffer, boolean])[] = [
    ["a record longer than allowed", Buffer.from([1, 0, 1, 0]), false],
    ["a record that is none", Buffer.from([2, 0, 0, 0, 9, 9]), false],
    ["an unknown kind", entryRecord({ ...ENTRY, kind: 77 }), false],
    ["a lane that ends within a record", entryRecord(ENTRY).subarray(0, 9), true],
  ];
  test.each(bad)("%s ends the channel", async (_name, bytes, ends) => {
    const { box, broken } = await setup((agent, name, stream) => {
      if (name !== "ListDirectory") return;
      agent.data(stream, LANE.out, bytes);
      if (!ends) return;
      agent.say(stream, END, LANE.out);
      agent.say(stream, DONE);
    });
    await expect(box.files.list("/")).rejects.toMatchObject({ code: "CHANNEL_PROTOCOL" });
    expect(broken).toHaveLength(1);
  });

  test("text is made harmless, sizes stay numbers, records come through any cut", async () => {
    const { box } = await setup((agent, name, stream) => {
      if (name !== "ListDirectory") return;
      const bytes = Buffer.concat([entryRecord(ENTRY), entryRecord({ ...ENTRY, path: Buffer.from([0xff, 0x41]) })]);
      for (const byte of bytes) agent.data(stream, LANE.out, Buffer.from([byte]));
      agent.say(stream, END, LANE.out);
      agent.say(stream, DONE);
    });
    const [first, second] = await box.files.list("/");
    expect(first).toMatchObject({
      path: "a",
      kind: "file",
      mode: 0o644,
      owner: "ro ot",
      size: Number.MAX_SAFE_INTEGER,
      target: null,
    });
    expect(second?.path).toBe("\ufffdA");
    expect(Buffer.from(second?.pathBytes ?? []).toString("hex")).toBe("ff41");
  });

  test("an endless listing is bounded and cancelled", async () => {
    const { agent, box } = await setup((fake, name, stream) => {
      if (name === "ListDirectory") for (let i = 0; i < 2_000; i += 1) fake.data(stream, LANE.out, entryRecord(ENTRY));
    });
    await expect(box.files.list("/", { maxEntries: 1_000 })).rejects.toMatchObject({ code: "OUTPUT_LIMIT" });
    await sleep(5);
    expect(agent.count(TYPE.Cancel)).toBe(1);
  });

  test("an unknown watch event ends the channel", async () => {
    const { box } = await setup((agent, name, stream) => {
      if (name !== "Watch") return;
      const event = new WireWriter();
      writeWatchEvent(event, { kind: 99, path: new Uint8Array(), isDirectory: false });
      const bytes = event.finish();
      agent.say(stream, { name: "Opened", body: {} });
      agent.data(stream, LANE.out, Buffer.concat([Buffer.from([bytes.length, 0, 0, 0]), bytes]));
    });
    const watcher = await box.files.watch("/");
    const next = watcher[Symbol.asyncIterator]().next();
    await expect(next).rejects.toMatchObject({ code: "CHANNEL_PROTOCOL" });
  });
});

describe("executions", () => {
  test("a flood nobody reads stays within one window", async () => {
    const { agent, box } = await setup((fake, name, stream) => {
      if (name !== "Exec") return;
      fake.say(stream, STARTED);
      for (let sent = 0; sent < INITIAL_CREDIT_BYTES; sent += 65_536) fake.data(stream, LANE.out, Buffer.alloc(65_536));
    });
    const execution = box.exec("yes");
    expect(await execution.pid).toBe(7);
    await sleep(10);
    expect(agent.count(TYPE.Credit)).toBe(0);
  });

  test("output kept open by another process: resolves after a silent grace, then cancels", async () => {
    const { agent, box } = await setup((fake, name, stream) => {
      if (name !== "Exec") return;
      fake.say(stream, STARTED);
      fake.data(stream, LANE.out, Buffer.from("x"));
      fake.say(stream, EXITED);
    });
    const result = await box.exec("daemon &", { drainGraceMs: 20 });
    expect(result).toMatchObject({ exitCode: 3, text: "x", ok: false });
    await sleep(5);
    expect(agent.count(TYPE.Cancel)).toBe(1);
  });

  test("a timeout kills, cancels and tells what came before", async () => {
    const { agent, box } = await setup((fake, name, stream) => {
      if (name !== "Exec") return;
      fake.say(stream, STARTED);
      fake.data(stream, LANE.out, Buffer.from("so far"));
    });
    const late = box.exec(["sleep", "9"], { timeoutMs: 30 });
    await expect(late).rejects.toMatchObject({ code: "TIMEOUT", details: { stdout: "so far", pid: 7, timeoutMs: 30 } });
    await sleep(5);
    expect(agent.seen.slice(1).map((one) => one.message)).toEqual([
      { name: "Signal", body: { signal: 9, group: true } },
      { name: "Cancel", body: {} },
    ]);
  });

  test("aborted before it has started: it is ended as soon as it has", async () => {
    const { agent, box } = await setup(() => {});
    const controller = new AbortController();
    const execution = box.exec("late", { signal: controller.signal });
    const stream = execution.stdout;
    await sleep(5);
    controller.abort();
    await expect(execution).rejects.toMatchObject({ code: "ABORTED" });
    await sleep(1);
    expect(stream.errored).toMatchObject({ code: "ABORTED" });
    expect(agent.seen).toHaveLength(1);
    agent.say(1, STARTED);
    await sleep(5);
    expect(agent.seen.slice(1).map((one) => one.message?.name)).toEqual(["Signal", "Cancel"]);
  });

  test("too much output is OUTPUT_LIMIT, never a result cut short", async () => {
    const { box } = await setup((fake, name, stream) => {
      if (name !== "Exec") return;
      fake.say(stream, STARTED);
      fake.data(stream, LANE.err, Buffer.alloc(101));
    });
    await expect(box.exec("yes", { maxOutputBytes: 100 })).rejects.toMatchObject({ code: "OUTPUT_LIMIT" });
  });

  test("why the sandbox has gone is told when the host knows", async () => {
    const { agent, box, end } = await setup((fake, name, stream) => name === "Exec" && fake.say(stream, STARTED));
    const execution = box.exec("eat");
    const stream = execution.stdout;
    await execution.pid;
    agent.socket.end();
    end({ code: null, signal: "SIGKILL", oomKilled: true });
    await expect(execution).rejects.toMatchObject({
      code: "SANDBOX_GONE",
      why: expect.stringContaining("it used more memory than its limit"),
    });
    expect(stream.errored).toMatchObject({ code: "SANDBOX_GONE" });
  });

  test("kill is idempotent, and everything under way rejects", async () => {
    const { box, released } = await setup((fake, name, stream) => name === "Exec" && fake.say(stream, STARTED));
    const execution = box.exec("sleep 9");
    const never = box.files.read("/x");
    await Promise.all([
      box.kill(),
      box.kill(),
      expect(execution).rejects.toMatchObject({ code: "SANDBOX_GONE" }),
      expect(never).rejects.toMatchObject({ code: "SANDBOX_GONE" }),
    ]);
    expect(released()).toBe(1);
    await expect(box.exec("true")).rejects.toMatchObject({ code: "SANDBOX_GONE" });
    await expect(box.exec("true").pid).rejects.toMatchObject({ code: "SANDBOX_GONE" });
    box.exec("true");
  });

  test("bad requests are refused before anything is sent", async () => {
    const { agent, box } = await setup(() => {});
    const invalid = { code: "SPEC_INVALID" };
    await expect(box.exec([])).rejects.toMatchObject(invalid);
    await expect(box.exec("a\0b")).rejects.toMatchObject(invalid);
    await expect(box.exec("x", { env: { "A=B": "c" } })).rejects.toMatchObject(invalid);
    await expect(box.exec("x", { rlimits: { nofile: -1 } })).rejects.toMatchObject(invalid);
    await expect(box.exec("x".repeat(70_000))).rejects.toMatchObject(invalid);
    await expect(box.exec("x", { pty: { rows: 0, cols: 1 } })).rejects.toMatchObject(invalid);
    await expect(box.files.stat("")).rejects.toMatchObject(invalid);
    await expect(box.files.read("/a\0")).rejects.toMatchObject(invalid);
    await expect(box.files.write("/a", "", { append: true, atomic: true })).rejects.toMatchObject(invalid);
    await expect(box.exec("x", { timeoutMs: 2 ** 31 })).rejects.toMatchObject(invalid);
    await expect(box.connect(Number.NaN)).rejects.toMatchObject(invalid);
    await expect(box.signal(-1, "SIGTERM")).rejects.toMatchObject(invalid);
    await expect(box.files.chmod("/a", 0o17777)).rejects.toMatchObject(invalid);
    await expect(box.files.list("/a", { depth: 0 })).rejects.toMatchObject(invalid);
    await expect(box.dial(0)).rejects.toMatchObject(invalid);
    await expect(box.signal(1, "SIGNOPE")).rejects.toMatchObject(invalid);
    expect(agent.seen).toEqual([]);
  });
});
