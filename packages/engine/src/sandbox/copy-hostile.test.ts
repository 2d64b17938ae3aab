import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BulkheadError, Plan } from "@bulkhead/contract";
import { describe, expect, onTestFinished, test } from "vitest";
import { WireWriter } from "../channel/codec.ts";
import { type Entry, EntryKind, LANE, type Message, writeEntry } from "../channel/wire.gen.ts";
import { type FakeAgent, fakePair } from "../testing/fake-agent.ts";
import { Sandbox } from "./sandbox.ts";

const DONE: Message = { name: "Done", body: {} };
const END: Message = { name: "End", body: {} };

function entry(path: string, kind: keyof typeof EntryKind, changes: Partial<Entry> = {}): Entry {
  return {
    path: Buffer.from(path, "latin1"),
    kind: EntryKind[kind],
    mode: 0o6755,
    uid: 0,
    gid: 0,
    owner: "",
    group: "",
    size: 0n,
    mtimeNs: 0n,
    target: Buffer.alloc(0),
    ...changes,
  };
}

function record(one: Entry): Buffer {
  const writer = new WireWriter();
  writeEntry(writer, one);
  const bytes = Buffer.from(writer.finish());
  const length = Buffer.alloc(4);
  length.writeUInt32LE(bytes.length);
  return Buffer.concat([length, bytes]);
}

interface Lies {
  /** What is said to be in a directory, by its path. */
  readonly listing: Readonly<Record<string, readonly Entry[]>>;
  readonly content?: (agent: FakeAgent, stream: number) => void;
}

/** A sandbox whose agent says that /base is a directory, and what it likes of the rest. */
async function liar({ listing, content }: Lies): Promise<{ box: Sandbox; broken: () => boolean }> {
  let broken = false;
  const { agent, attached } = fakePair({ onBroken: () => void (broken = true) });
  const whole = (stream: number): void => {
    agent.say(stream, END, LANE.out);
    agent.say(stream, DONE);
  };
  agent.onFrame = ({ message, stream }) => {
    if (message?.name === "Stat") {
      agent.say(stream, { name: "StatResult", body: { entry: entry("/base", "directory") } });
      agent.say(stream, DONE);
    } else if (message?.name === "ListDirectory") {
      const found = listing[Buffer.from(message.body.path).toString("latin1")] ?? [];
      for (const one of found) agent.data(stream, LANE.out, record(one));
      whole(stream);
    } else if (message?.name === "ReadFile") {
      agent.say(stream, { name: "StatResult", body: { entry: entry("/base/file", "file") } });
      if (content === undefined) {
        agent.data(stream, LANE.out, Buffer.from("mine"));
        whole(stream);
      } else content(agent, stream);
    }
  };
  const release = async (): Promise<void> => {};
  const ended = new Promise<never>(() => {});
  const box = new Sandbox({ id: "s1", plan: {} as Plan, channel: await attached, ended, release });
  onTestFinished(() => box.kill());
  return { box, broken: () => broken };
}

function place(): { readonly dir: string; readonly to: string; readonly outside: string } {
  const dir = mkdtempSync(join(tmpdir(), "bulkhead-copy-"));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  const outside = join(dir, "outside");
  mkdirSync(outside);
  writeFileSync(join(outside, "kept"), "as it was");
  mkdirSync(join(dir, "in"));
  return { dir, to: join(dir, "in/to"), outside };
}

const failure = (work: Promise<unknown>): Promise<BulkheadError> =>
  work.then(
    () => Promise.reject(new Error("it succeeded")),
    (error: BulkheadError) => error,
  );

describe("a copy out of a sandbox whose agent lies", () => {
  const names = [
    "/base/../up",
    "/base/..",
    "/base/.",
    "/base/",
    "/base",
    "/base/a/b",
    "/base//a",
    "/base/a\0b",
    "/other/a",
    "/baseless",
    `/base/${"n".repeat(256)}`,
  ];
  for (const kind of ["file", "directory", "symlink"] as const) {
    test.each(names)(`${kind} %j ends the sandbox`, async (path) => {
      const { to, dir, outside } = place();
      const target = Buffer.from(outside);
      const { box, broken } = await liar({ listing: { "/base": [entry(path, kind, { target })] } });
      expect((await failure(box.copyOut("/base", to))).code).toBe("CHANNEL_PROTOCOL");
      expect(broken()).toBe(true);
      expect(readdirSync(join(dir, "in"))).toEqual([]);
      expect(readdirSync(outside)).toEqual(["kept"]);
    });
  }

  test("a link and a directory or a file of the same name: nothing is written through the link", async () => {
    for (const kind of ["directory", "file"] as const) {
      const { to, dir, outside } = place();
      const { box } = await liar({
        listing: {
          "/base": [entry("/base/a", "symlink", { target: Buffer.from(outside) }), entry("/base/a", kind)],
          "/base/a": [entry("/base/a/kept", "file"), entry("/base/a/new", "file")],
        },
      });
      expect((await failure(box.copyOut("/base", to))).code).toBe("HOST_RESOURCE");
      expect(readdirSync(join(dir, "in"))).toEqual([]);
      expect(readdirSync(outside)).toEqual(["kept"]);
      expect(readFileSync(join(outside, "kept"), "utf8")).toBe("as it was");
    }
  });

  test("files, entries and depth without an end have one here", async () => {
    const { to, dir } = place();
    const flood = (agent: FakeAgent, stream: number): void => agent.data(stream, LANE.out, Buffer.alloc(64 * 1024));
    const endless = await liar({ listing: { "/base": [entry("/base/file", "file")] }, content: flood });
    expect((await failure(endless.box.copyOut("/base", to, { maxBytes: 1000 }))).code).toBe("OUTPUT_LIMIT");
    const many = Array.from({ length: 100 }, (_, i) => entry(`/base/${i}`, "symlink", { target: Buffer.from("x") }));
    const crowded = await liar({ listing: { "/base": many } });
    expect((await failure(crowded.box.copyOut("/base", to, { maxEntries: 50 }))).code).toBe("OUTPUT_LIMIT");
    const paths = Array.from({ length: 200 }, (_, i) => `/base${"/d".repeat(i)}`);
    const nested = Object.fromEntries(paths.map((path) => [path, [entry(`${path}/d`, "directory")]]));
    expect((await failure((await liar({ listing: nested })).box.copyOut("/base", to))).code).toBe("COPY_REFUSED");
    expect(readdirSync(join(dir, "in"))).toEqual([]);
  });

  test("what is taken has no set-user-id bits, its links are links, and its special files stay behind", async () => {
    const { to, outside } = place();
    const { box } = await liar({
      listing: {
        "/base": [
          entry("/base/file", "file", { mtimeNs: 5_000_000_000n }),
          entry("/base/link", "symlink", { target: Buffer.from(outside) }),
          entry("/base/pipe", "fifo"),
          entry("/base/disk", "block"),
          entry("/base/sub", "directory"),
        ],
      },
    });
    const copied = await box.copyOut("/base", to);
    expect(copied).toEqual({ files: 1, directories: 2, links: 1, bytes: 4, leftOut: 2 });
    expect(readdirSync(to).toSorted()).toEqual(["file", "link", "sub"]);
    expect([lstatSync(join(to, "file")).mode & 0o7777, lstatSync(join(to, "file")).mtimeMs]).toEqual([0o755, 5000]);
    expect(lstatSync(join(to, "sub")).mode & 0o7777).toBe(0o755);
    expect(lstatSync(join(to, "link")).isSymbolicLink()).toBe(true);
  });
});

describe("where a copy goes", () => {
  const file = { listing: { "/base": [entry("/base/file", "file")] } };

  test("what is there is never replaced, and a path has to be plain", async () => {
    const { to, dir, outside } = place();
    const { box } = await liar(file);
    symlinkSync(outside, to);
    for (const path of [to, outside, join(outside, "kept"), "relative", `${dir}/in/../x`, `${dir}/x/`])
      expect((await failure(box.copyOut("/base", path))).code, path).toBe("COPY_REFUSED");
    expect((await failure(box.copyOut("/base", join(dir, "absent/x")))).code).toBe("HOST_RESOURCE");
    expect(readdirSync(outside)).toEqual(["kept"]);
  });

  test("a directory that anybody may write to holds no part of it that others can change", async () => {
    const { to, dir } = place();
    chmodSync(join(dir, "in"), 0o777);
    let modes: number[] = [];
    const look = (agent: FakeAgent, stream: number): void => {
      modes = readdirSync(join(dir, "in")).map((name) => lstatSync(join(dir, "in", name)).mode & 0o777);
      agent.data(stream, LANE.out, Buffer.from("x"));
      agent.say(stream, END, LANE.out);
      agent.say(stream, DONE);
    };
    const { box } = await liar({ ...file, content: look });
    await box.copyOut("/base", to);
    expect(modes).toEqual([0o700]);
    expect(readFileSync(join(to, "file"), "utf8")).toBe("x");
  });
});
