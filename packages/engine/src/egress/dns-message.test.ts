import { parseAddress } from "@bulkhead/contract";
import { Resolver } from "node:dns/promises";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { describe, expect, test } from "vitest";
import { dnsQuery } from "../testing/dns-query.ts";
import { fc, fuzz } from "../testing/fuzz.ts";
import { EXTENDED, RCODE, readQuestion, TYPE, writeAnswer, writeFormatError, type Question } from "./dns-message.ts";

const read = (bytes: Uint8Array): Question => readQuestion(bytes) as Question;

test("a question is read, its letters' case kept for the answer", () => {
  const question = read(dnsQuery("PyPI.org", TYPE.AAAA, 1232));
  expect(question).toMatchObject({ id: 0xabcd, opcode: 0, name: "PyPI.org", type: 28, klass: 1 });
  expect(question.edns).toEqual({ udpBytes: 1232, version: 0 });
  const answer = writeAnswer(question, { rcode: RCODE.noError }, "udp");
  expect(answer.subarray(12, 12 + question.section.length).equals(question.section)).toBe(true);
});

describe("what is no question is no question", () => {
  const good = dnsQuery("a.example.com", TYPE.A);
  const changed = (at: number, value: number): Buffer => {
    const bytes = Buffer.from(good);
    bytes[at] = value;
    return bytes;
  };
  test.each([
    ["less than a header", good.subarray(0, 11), null],
    ["an answer", changed(2, 0x81), null],
    ["two questions", changed(5, 2), { malformed: 0xabcd }],
    ["an answer record", changed(7, 1), { malformed: 0xabcd }],
    ["a record of authority", changed(9, 1), { malformed: 0xabcd }],
    ["cut off", good.subarray(0, good.length - 1), { malformed: 0xabcd }],
    ["bytes after it", Buffer.concat([good, Buffer.from([0])]), { malformed: 0xabcd }],
    ["a compressed name", changed(12, 0xc0), { malformed: 0xabcd }],
    ["a label longer than the message", changed(12, 63), { malformed: 0xabcd }],
    ["an OPT that is not there", changed(11, 1), { malformed: 0xabcd }],
    ["a name of 256 bytes", dnsQuery(Array(128).fill("a").join("."), TYPE.A), { malformed: 0xabcd }],
  ])("%s", (_, bytes, expected) => expect(readQuestion(bytes)).toEqual(expected));

  test("a name that is no text has none", () => {
    const bytes = dnsQuery("a.example.com", TYPE.A);
    bytes[13] = 0x2e;
    expect(read(bytes).name).toBeNull();
  });

  test("a name of 255 bytes is one", () => {
    const name = ["a", "b", "c"].map((letter) => letter.repeat(63)).join(".") + "." + "d".repeat(61);
    expect(read(dnsQuery(name, TYPE.A)).name).toBe(name);
  });
});

test("an answer that does not fit UDP says so, and is whole over TCP", () => {
  const addresses = Array.from({ length: 40 }, (_, i) => parseAddress(`2606:4700::${i + 1}`)!);
  const plain = read(dnsQuery("a.example.com", TYPE.AAAA));
  const udp = writeAnswer(plain, { rcode: 0, addresses, ttl: 5 }, "udp");
  expect(udp.length).toBeLessThanOrEqual(512);
  expect(udp[2]! & 2).toBe(2);
  const tcp = writeAnswer(plain, { rcode: 0, addresses, ttl: 5 }, "tcp");
  expect(tcp[2]! & 2).toBe(0);
  expect(tcp.readUInt16BE(6)).toBe(40);
});

test("the reason is told to who speaks EDNS, and to nobody else, and always fits", () => {
  const name = ["a", "b", "c"].map((letter) => letter.repeat(63)).join(".") + "." + "d".repeat(61);
  const answer = {
    rcode: RCODE.noSuchName,
    extended: { code: EXTENDED.prohibited, text: "no rule allows it ".repeat(40) },
  };
  const told = writeAnswer(read(dnsQuery(name, TYPE.A, 512)), answer, "udp");
  expect(told.toString("latin1")).toContain("no rule allows it");
  expect(told.length).toBeLessThanOrEqual(512);
  expect(told[2]! & 2).toBe(0);
  expect(writeAnswer(read(dnsQuery(name, TYPE.A)), answer, "udp").toString("latin1")).not.toContain("no rule");
});

test("a resolver of the wider world reads the answers", async () => {
  const server = createSocket("udp4");
  server.on("message", (message, from) => {
    const question = read(message);
    const addresses = question.type === TYPE.A ? ["192.0.2.1", "192.0.2.2"] : ["2001:db8::1"];
    const answer = { rcode: 0, addresses: addresses.map((text) => parseAddress(text)!), ttl: 77 };
    server.send(writeAnswer(question, answer, "udp"), from.port, from.address);
  });
  server.bind(0, "127.0.0.1");
  await once(server, "listening");
  const resolver = new Resolver();
  resolver.setServers([`127.0.0.1:${server.address().port}`]);
  expect(await resolver.resolve4("a.example.com", { ttl: true })).toEqual([
    { address: "192.0.2.1", ttl: 77 },
    { address: "192.0.2.2", ttl: 77 },
  ]);
  expect(await resolver.resolve6("a.example.com")).toEqual(["2001:db8::1"]);
  server.close();
});

test("an unreadable message is answered with its id alone", () => {
  expect([...writeFormatError(0x1234)]).toEqual([0x12, 0x34, 0x80, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]);
});

const near = fc
  .tuple(fc.nat(60), fc.nat(255), fc.constantFrom(TYPE.A, TYPE.AAAA, 65), fc.option(fc.nat(65_535)))
  .map(([at, value, type, edns]) => {
    const bytes = dnsQuery("some.example.com", type, edns);
    bytes[at % bytes.length] = value;
    return bytes;
  });

fuzz(
  "no message does anything but be read, refused or ignored",
  [fc.oneof(fc.uint8Array({ maxLength: 600 }), near)],
  (bytes) => {
    const question = readQuestion(bytes);
    if (question === null || "malformed" in question) return;
    const answer = writeAnswer(question, { rcode: 0, addresses: [parseAddress("192.0.2.1")!], ttl: 1 }, "udp");
    expect(answer.length).toBeLessThanOrEqual(1232);
    expect(answer.readUInt16BE(0)).toBe(question.id);
  },
);
