import { isIP } from "node:net";
import fc from "fast-check";
import { expect, test } from "vitest";
import { contains, covers, formatAddress, formatRange, parseAddress, parseRange } from "./address.ts";

const v4 = fc.bigInt({ min: 0n, max: 2n ** 32n - 1n }).map((value) => ({ family: 4 as const, value }));
const v6 = fc
  .array(fc.oneof(fc.constant(0n), fc.bigInt({ min: 0n, max: 0xffffn })), { minLength: 8, maxLength: 8 })
  .map((groups) => ({ family: 6 as const, value: groups.reduce((value, group) => (value << 16n) | group, 0n) }));

test("an address is read back from its canonical text, which Node takes for the same family", () => {
  fc.assert(
    fc.property(fc.oneof(v4, v6), (address) => {
      const text = formatAddress(address);
      expect(parseAddress(text)).toEqual(address);
      expect(isIP(text)).toBe(address.family);
    }),
  );
});

test("the canonical text of IPv6 is the URL parser's", () => {
  fc.assert(
    fc.property(v6, (address) => {
      const text = `[${formatAddress(address)}]`;
      expect(new URL(`http://${text}/`).hostname).toBe(text);
    }),
  );
});

test("a text is an address exactly when Node says so", () => {
  const part = fc.oneof(
    fc.constantFrom("", "0", "00", "256", "255", "1", "ffff", "10000", "::", ":", ".", "1.2.3.4", "%", "g"),
    fc.nat(300).map(String),
  );
  const text = fc
    .array(fc.oneof(part, fc.constantFrom(":", ".", "::")), { maxLength: 17 })
    .map((parts) => parts.join(""));
  const joined = fc
    .tuple(fc.array(part, { maxLength: 9 }), fc.constantFrom(":", "."))
    .map(([parts, by]) => parts.join(by));
  fc.assert(
    fc.property(fc.oneof(text, joined, v6.map(formatAddress), v4.map(formatAddress)), (given) => {
      const zoned = given.includes("%");
      expect(parseAddress(given)?.family ?? 0).toBe(zoned ? 0 : isIP(given));
    }),
    { numRuns: 1000 },
  );
});

test.each([
  "1.2.3",
  "01.2.3.4",
  "1.2.3.4.",
  "1.2.3.256",
  "0x1.2.3.4",
  "fe80::1%eth0",
  "1::2::3",
  "::1.2.3",
  "1.2.3.4::",
  ":1::",
  " 1.2.3.4",
])("%j is no address", (text) => expect(parseAddress(text)).toBeNull());

test.each(["10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.0/", "::/129", "2001:db8::1/32", "10.0.0.0/8/8", "/8"])(
  "%j is no range",
  (text) => expect(parseRange(text)).toBeNull(),
);

test("ranges hold what their prefix says", () => {
  const range = (text: string) => parseRange(text)!;
  const address = (text: string) => parseAddress(text)!;
  expect(contains(range("10.0.0.0/8"), address("10.255.255.255"))).toBe(true);
  expect(contains(range("10.0.0.0/8"), address("11.0.0.0"))).toBe(false);
  expect(contains(range("0.0.0.0/0"), address("::"))).toBe(false);
  expect(contains(range("2001:db8::/33"), address("2001:db8:8000::"))).toBe(false);
  expect(covers(range("10.0.0.0/8"), range("10.1.0.0/16"))).toBe(true);
  expect(covers(range("10.1.0.0/16"), range("10.0.0.0/8"))).toBe(false);
  expect(formatRange(range("192.0.2.1/32"))).toBe("192.0.2.1");
  expect(formatRange(range("2001:DB8:0::/32"))).toBe("2001:db8::/32");
});
