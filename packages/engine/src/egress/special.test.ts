import { parseAddress, parseRange, formatAddress } from "@bulkhead/contract";
import fc from "fast-check";
import { expect, test } from "vitest";
import { opens, specialBlock } from "./special.ts";

const block = (text: string, own: readonly string[] = []) =>
  specialBlock(
    parseAddress(text)!,
    own.map((one) => parseAddress(one)!),
  );

test.each([
  ["0.0.0.0", /unspecified/],
  ["127.0.0.1", /loopback/],
  ["127.255.255.255", /loopback/],
  ["10.0.0.1", /private/],
  ["172.16.0.1", /private/],
  ["172.31.255.255", /private/],
  ["192.168.1.1", /private/],
  ["100.64.0.1", /carrier/],
  ["100.127.255.255", /carrier/],
  ["169.254.1.1", /link-local/],
  ["169.254.169.254", /metadata/],
  ["169.254.170.2", /metadata/],
  ["168.63.129.16", /metadata/],
  ["100.100.100.200", /metadata/],
  ["224.0.0.251", /multicast/],
  ["239.255.255.250", /multicast/],
  ["240.0.0.1", /reserved/],
  ["255.255.255.255", /reserved/],
  ["192.0.0.1", /reserved/],
  ["198.18.0.1", /reserved/],
  ["192.0.2.1", /documentation/],
  ["::", /unspecified/],
  ["::1", /loopback/],
  ["fc00::1", /private/],
  ["fd00:ec2::254", /metadata/],
  ["fe80::1", /link-local/],
  ["fec0::1", /nobody/],
  ["ff02::1", /multicast/],
  ["::ffff:10.0.0.1", /inside an IPv6/],
  ["::ffff:8.8.8.8", /inside an IPv6/],
  ["::10.0.0.1", /inside an IPv6/],
  ["64:ff9b::10.0.0.1", /private address inside an IPv6/],
  ["64:ff9b::169.254.169.254", /metadata service inside an IPv6/],
  ["64:ff9b:1::1", /inside an IPv6/],
  ["2002:a00:1::", /inside an IPv6/],
  ["2001:0:1::1", /inside an IPv6/],
  ["2001:db8::1", /documentation/],
  ["4000::1", /nobody/],
])("%s is not public", (text, what) => expect(block(text)?.what).toMatch(what));

test.each([
  "8.8.8.8",
  "1.1.1.1",
  "100.63.255.255",
  "100.128.0.0",
  "172.15.0.1",
  "172.32.0.1",
  "2606:4700::1111",
  "64:ff9b::8.8.8.8",
])("%s is public", (text) => expect(block(text)).toBeNull());

test("the host's own addresses are not public", () => {
  expect(block("8.8.8.8", ["8.8.8.8"])?.what).toMatch(/own/);
  expect(block("10.0.0.1", ["10.0.0.1"])?.what).toMatch(/own/);
  expect(block("64:ff9b::8.8.8.8", ["8.8.8.8"])?.what).toMatch(/own address inside/);
});

test("a range opens what it lies in, not what it lies around", () => {
  const by = (range: string, address: string) => opens(parseRange(range)!, block(address)!);
  expect(by("10.0.0.0/8", "10.1.2.3")).toBe(true);
  expect(by("10.1.0.0/16", "10.1.2.3")).toBe(true);
  expect(by("8.0.0.0/5", "10.1.2.3")).toBe(false);
  expect(by("169.254.0.0/16", "169.254.1.1")).toBe(true);
  expect(by("169.254.0.0/16", "169.254.169.254")).toBe(false);
  expect(by("169.254.169.254", "169.254.169.254")).toBe(true);
  expect(by("fc00::/7", "fd00:ec2::254")).toBe(false);
  expect(by("2000::/3", "2001:db8::1")).toBe(false);
  expect(by("64:ff9b::10.0.0.0/104", "64:ff9b::10.0.0.1")).toBe(true);
  expect(by("64:ff9b::/96", "64:ff9b::10.0.0.1")).toBe(false);
});

test("IPv6 outside of 2000::/3 is never public, but for translated public IPv4", () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 128n - 1n }), (value) => {
      const address = { family: 6, value } as const;
      const translated = formatAddress(address).startsWith("64:ff9b::");
      if (value >> 125n !== 1n && !translated) expect(specialBlock(address)).not.toBeNull();
      const found = specialBlock(address);
      if (found !== null) expect(opens(found.range, found)).toBe(true);
    }),
  );
});
