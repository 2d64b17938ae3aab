/**
 * Writes agent/wire/vectors-1.json: `node scripts/wire/vectors.ts`. It encodes straight from the schema, by none of
 * the two codecs that the vectors test.
 */
import { readFileSync, writeFileSync } from "node:fs";
import type { Schema } from "./schema.ts";

type Value = string | number | boolean | readonly Value[] | { readonly [name: string]: Value };
type Fields = { readonly [name: string]: Value };
type Changes = { readonly length?: number; readonly reserved?: number; readonly lane?: number; readonly type?: number };

const root = new URL("../../", import.meta.url);
const schema = JSON.parse(readFileSync(new URL("agent/wire/generation-1.json", root), "utf8")) as Schema;
const TAG = 0x11223344;
const U64_MAX = "18446744073709551615";
const I64_MIN = "-9223372036854775808";
const U32_MAX = 4294967295;

function little(value: bigint, bytes: number): Buffer {
  const out = Buffer.alloc(bytes);
  for (let i = 0; i < bytes; i += 1) out[i] = Number((BigInt.asUintN(64, value) >> BigInt(8 * i)) & 255n);
  return out;
}

function contents(bytes: Buffer): Buffer {
  return Buffer.concat([little(BigInt(bytes.length), 4), bytes]);
}

function encodeValue(type: string, value: Value): Buffer {
  const list = /^list<(.*)>$/.exec(type);
  if (list !== null) {
    const items = value as readonly Value[];
    return Buffer.concat([little(BigInt(items.length), 2), ...items.map((item) => encodeValue(list[1] ?? "", item))]);
  }
  if (type === "bool") return Buffer.from([value === true ? 1 : 0]);
  if (type === "str") return contents(Buffer.from(value as string, "utf8"));
  if (type === "bytes") return contents(Buffer.from(value as string, "hex"));
  const number = /^[ui](8|16|32|64)$/.exec(type);
  if (number !== null) return little(BigInt(value as string | number), Number(number[1]) / 8);
  return encodeFields(
    (schema.structs as Record<string, readonly (readonly [string, string])[]>)[type] ?? [],
    value as Fields,
  );
}

function encodeFields(fields: readonly (readonly [string, string])[], values: Fields): Buffer {
  return Buffer.concat(
    fields.map(([name, type]) => {
      const value = values[name];
      if (value === undefined) throw new Error(`vector without ${name}`);
      return encodeValue(type, value);
    }),
  );
}

function definition(name: string) {
  const found = schema.messages.find((message) => message.name === name);
  if (found === undefined) throw new Error(`no message ${name}`);
  return found;
}

function frame(type: number, stream: number, lane: number, payload: Buffer, tag: number, change: Changes = {}): string {
  const head = Buffer.concat([
    little(BigInt(change.length ?? payload.length), 4),
    little(BigInt(stream), 4),
    Buffer.from([change.type ?? type, change.lane ?? lane]),
    little(BigInt(change.reserved ?? 0), 2),
  ]);
  return Buffer.concat([head, payload, little(BigInt(tag), 4)]).toString("hex");
}

const vectors: object[] = [];
function vector(name: string, message: string, fields: Fields, stream = 1, lane = 0, tag = TAG): void {
  const { type, fields: shape } = definition(message);
  const payload = message === "Data" ? Buffer.from(fields["data"] as string, "hex") : encodeFields(shape ?? [], fields);
  vectors.push({ name, message, stream, lane, tag, fields, hex: frame(type, stream, lane, payload, tag) });
}

const invalid: object[] = [];
function wrong(
  name: string,
  message: string,
  stream: number,
  payload: Buffer,
  why: string,
  change: Changes = {},
  tag = TAG,
): void {
  invalid.push({ name, why, tag: TAG, hex: frame(definition(message).type, stream, 0, payload, tag, change) });
}

const hex = (text: string): string => Buffer.from(text, "utf8").toString("hex");
const entry: Fields = {
  path: hex("/etc/hostname"),
  kind: 1,
  mode: 0o100644,
  uid: 0,
  gid: 0,
  owner: "root",
  group: "root",
  size: "9",
  mtimeNs: "1767225600123456789",
  target: "",
};
const exec: Fields = {
  argv: [hex("/bin/sh"), hex("-c"), hex("exit 3")],
  env: [hex("A=1"), hex("B=")],
  cwd: hex("/tmp"),
  user: "user:users",
  stdin: 1,
  pty: false,
  rows: 0,
  cols: 0,
  rlimits: [{ resource: 7, soft: "1024", hard: "4096" }],
  killOnCancel: true,
  record: false,
};
const user = "1000:1000";
const path = hex("/home/user/a b");
const notUtf8 = "2fff00fe0a";

vector(
  "hello",
  "Hello",
  {
    agentVersion: "0.1.0",
    kernelRelease: "6.1.0-13-amd64",
    bootId: "d8a928b2-043c-4a6c-8d29-6c3f2a6e9a5f",
    pid: 1,
    reattached: false,
  },
  0,
);
vector(
  "hello again, empty strings",
  "Hello",
  { agentVersion: "", kernelRelease: "", bootId: "", pid: U32_MAX, reattached: true },
  0,
);
vector("ping", "Ping", { token: "81985529216486895" }, 0);
vector("pong, greatest token", "Pong", { token: U64_MAX }, 0);
vector(
  "configure",
  "Configure",
  {
    hostGone: 1,
    defaultUser: "user",
    allowSetuid: true,
    env: [hex("LANG=C.UTF-8"), hex("TZ=UTC")],
    hostname: "box-1",
    elevate: true,
    openFiles: "1048576",
    filter: "060000000000ff7f",
  },
  0,
);
const nothing = { hostGone: 0, defaultUser: "", allowSetuid: false, env: [], hostname: "", elevate: false };
vector("configure, empty list", "Configure", { ...nothing, openFiles: "0", filter: "" }, 0);
vector("shutdown", "Shutdown", { graceMs: 2000 }, 0);
vector("limit hit", "LimitHit", { limit: 1, pid: 42, command: hex("python3") }, 0);
vector("limit hit, nobody named", "LimitHit", { limit: 3, pid: 0, command: "" }, 0);
vector("data in", "Data", { data: "00ff0d0a1b5b41" }, 1, 0);
vector("data out, empty", "Data", { data: "" }, 2, 1);
vector("data err, last stream id", "Data", { data: "ff" }, 2147483647, 2);
vector("end", "End", {}, 3, 1);
vector("credit", "Credit", { bytes: 65536 }, 3, 1);
vector("credit, most", "Credit", { bytes: U32_MAX }, 3, 0);
vector("cancel", "Cancel", {}, 4);
vector("failed", "Failed", { kind: 11, errno: 2, message: "the command “nope” is not in PATH" }, 5);
vector("failed, greatest numbers", "Failed", { kind: 65535, errno: U32_MAX, message: "" }, 5);
vector("done", "Done", {}, 5);
vector("done, another tag", "Done", {}, 5, 0, 0xfffefdfc);
vector("exec", "Exec", exec, 6);
vector(
  "exec, everything empty",
  "Exec",
  {
    argv: [],
    env: [],
    cwd: "",
    user: "",
    stdin: 0,
    pty: false,
    rows: 0,
    cols: 0,
    rlimits: [],
    killOnCancel: false,
    record: false,
  },
  6,
);
vector(
  "exec, terminal, bytes that are not UTF-8",
  "Exec",
  {
    ...exec,
    argv: [notUtf8, "", "80"],
    cwd: notUtf8,
    pty: true,
    rows: 65535,
    cols: 65535,
    rlimits: [
      { resource: 255, soft: U64_MAX, hard: U64_MAX },
      { resource: 0, soft: "0", hard: "0" },
    ],
  },
  6,
);
vector(
  "exec, longest list",
  "Exec",
  { ...exec, env: Array.from({ length: schema.limits.maxListItems }, () => "61") },
  6,
);
vector("exec, recorded", "Exec", { ...exec, record: true }, 6);
vector("connect", "Connect", { pid: 77 }, 7);
vector("started", "Started", { pid: 77, stdoutOffset: "0", stderrOffset: "9007199254740993" }, 7);
vector("signal", "Signal", { signal: 15, group: true }, 7);
vector("resize", "Resize", { rows: 24, cols: 80 }, 7);
vector(
  "exited",
  "Exited",
  { code: 3, signal: 0, coreDumped: false, userMs: "12", systemMs: "4", maxRssBytes: "1048576" },
  7,
);
vector(
  "exited, by a signal",
  "Exited",
  { code: -2147483648, signal: 11, coreDumped: true, userMs: U64_MAX, systemMs: U64_MAX, maxRssBytes: U64_MAX },
  7,
);
vector("signal process", "SignalProcess", { pid: 77, signal: 9, group: false }, 8);
vector("list processes", "ListProcesses", {}, 9);
vector("get usage", "GetUsage", {}, 10);
vector(
  "usage",
  "Usage",
  {
    processes: 3,
    memoryUsedBytes: "7340032",
    memoryTotalBytes: "268435456",
    cpus: 2,
    cpuMs: "1500",
    uptimeMs: "60000",
    diskUsedBytes: "4096",
    diskTotalBytes: "1073741824",
    agentRssBytes: "262144",
  },
  10,
);
vector(
  "prepare guest",
  "PrepareGuest",
  {
    rootDevice: "/dev/vda",
    upperDevice: "/dev/vdb",
    upperBytes: "0",
    upperInodes: "0",
    hostname: "box",
    machineId: "0123456789abcdef0123456789abcdef",
    seed: "5a".repeat(64),
    realtimeNs: "1790000000123456789",
    pids: "512",
    memoryBytes: "0",
    resolver: "192.0.0.1",
  },
  1,
);
vector(
  "mount what is shared",
  "MountShared",
  {
    tag: "shared",
    mounts: [
      { name: "0", target: path, readOnly: true },
      { name: "1", target: notUtf8, readOnly: false },
    ],
  },
  2,
);
vector("read file, to the end", "ReadFile", { path, offset: "0", length: U64_MAX, user: "" }, 11);
vector("write file", "WriteFile", { path, mode: 0o644, how: 3, makeParents: true, user }, 12);
vector("stat", "Stat", { path: notUtf8, follow: false, user }, 13);
vector("stat result", "StatResult", { entry }, 13);
vector(
  "stat result, a link, before 1970",
  "StatResult",
  {
    entry: {
      ...entry,
      path: notUtf8,
      kind: 3,
      size: U64_MAX,
      mtimeNs: I64_MIN,
      uid: U32_MAX,
      owner: "",
      group: "",
      target: "ff",
    },
  },
  13,
);
vector("list directory", "ListDirectory", { path, depth: 65535, user }, 14);
vector("make directory", "MakeDirectory", { path, mode: 0o755, parents: true, user }, 15);
vector("move", "Move", { from: path, to: notUtf8, overwrite: false, user }, 16);
vector("remove", "Remove", { path, recursive: true, user }, 17);
vector("change mode", "ChangeMode", { path, mode: 0o4755, user }, 18);
vector("change owner", "ChangeOwner", { path, owner: "user", group: "", user: "root" }, 19);
vector("watch", "Watch", { path, recursive: true, user }, 20);
vector("opened", "Opened", {}, 20);
vector("written", "Written", { bytes: "5000000000" }, 12);
vector("make symlink", "MakeSymlink", { path, target: hex("../é"), user }, 21);
vector("change time", "ChangeTime", { path, mtimeNs: "-1500000000", user }, 26);
vector("dial tcp", "DialTcp", { address: "127.0.0.1", port: 8080 }, 22);
vector("dial tcp, empty address", "DialTcp", { address: "", port: 65535 }, 22);
vector("dial unix", "DialUnix", { path: hex("/run/a.sock"), user }, 23);
vector(
  "refresh guest",
  "RefreshGuest",
  {
    realtimeNs: "1790000000123456789",
    seed: "5a".repeat(64),
    hostname: "fork",
    machineId: "0123456789abcdef0123456789abcdef",
    bootId: "01234567-89ab-cdef-0123-456789abcdef",
  },
  1,
);
vector("open egress", "OpenEgress", { resolver: "192.0.0.1" }, 24);
vector("take connection", "TakeConnection", { id: U32_MAX, windowBytes: 262144 }, 25);

vector(
  "recorded",
  "Recorded",
  {
    calls: [
      { number: 0, argument: "0" },
      { number: 41, argument: U64_MAX },
    ],
  },
  7,
);
vector("recorded, nothing", "Recorded", { calls: [] }, 7);

const ping = little(7n, 8);
const shape = definition("Exec").fields ?? [];
const execBytes = encodeFields(shape, exec);
const before = encodeFields(shape.slice(0, 1), exec);
const many = schema.limits.maxListItems + 1;
const tooMany = Buffer.concat([
  before,
  little(BigInt(many), 2),
  ...Array.from({ length: many }, () => contents(Buffer.from("a"))),
  execBytes.subarray(before.length + encodeFields(shape.slice(1, 2), exec).length),
]);
wrong("truncated", "Ping", 0, ping.subarray(0, 7), "a field reaches past the end");
wrong("truncated list", "Exec", 1, execBytes.subarray(0, 9), "a list ends early");
wrong("trailing byte", "Ping", 0, Buffer.concat([ping, Buffer.from([0])]), "a byte after the last field");
wrong("trailing byte after no fields", "Cancel", 1, Buffer.from([0]), "a byte after the last field");
wrong("boolean 2", "Signal", 1, Buffer.from([9, 2]), "a boolean that is neither 0 nor 1");
wrong("list too long", "Exec", 1, tooMany, "a list longer than maxListItems");
wrong("list that claims items", "Exec", 1, Buffer.from([255, 255]), "a list claims items that are not there");
wrong("bytes past the end", "Connect", 1, Buffer.alloc(0), "no field where one is due");
wrong("length of 4 GiB", "DialUnix", 1, Buffer.from("ffffffff2f", "hex"), "a length past the end");
wrong(
  "bad UTF-8",
  "DialTcp",
  1,
  Buffer.concat([contents(Buffer.from("c328", "hex")), little(80n, 2)]),
  "a string that is not UTF-8",
);
wrong(
  "UTF-8 of a surrogate",
  "DialTcp",
  1,
  Buffer.concat([contents(Buffer.from("eda080", "hex")), little(80n, 2)]),
  "a string that is not UTF-8",
);
wrong("reserved byte", "Ping", 0, ping, "reserved is not 0", { reserved: 1 });
wrong("second reserved byte", "Ping", 0, ping, "reserved is not 0", { reserved: 256 });
wrong("unknown type", "Ping", 0, ping, "no such type", { type: 250 });
wrong("type 0", "Ping", 0, ping, "no such type", { type: 0 });
wrong("payload too long", "Ping", 0, ping, "length above maxPayloadBytes", {
  length: schema.limits.maxPayloadBytes + 1,
});
wrong("wrong tag", "Ping", 0, ping, "the tag is another", {}, 0x11223345);

const lines = (items: readonly object[]): string => items.map((item) => `    ${JSON.stringify(item)}`).join(",\n");
const text = `{\n  "generation": ${schema.generation},\n  "vectors": [\n${lines(vectors)}\n  ],\n  "invalid": [\n${lines(invalid)}\n  ]\n}\n`;
writeFileSync(new URL("agent/wire/vectors-1.json", root), text);
