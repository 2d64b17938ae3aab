import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BulkheadError } from "./errors.ts";
import { canonicalName, combineRules, formatRule, matchesName, parseRule, type NetworkRule } from "./network.ts";

function refusal(act: () => unknown): BulkheadError {
  try {
    act();
  } catch (error) {
    if (error instanceof BulkheadError) return error;
    throw error;
  }
  throw new Error("accepted");
}

test.each([
  ["pypi.org", "pypi.org"],
  ["PyPI.org.", "pypi.org"],
  ["bücher.example", "xn--bcher-kva.example"],
  ["Ｅxample．com", "example.com"],
  ["*.example.com:443", "*.example.com:443"],
  ["_dmarc.example.com:80-90", "_dmarc.example.com:80-90"],
  ["example.com:1-65535", "example.com"],
  ["192.0.2.1", "192.0.2.1"],
  ["192.0.2.0/24:53/udp", "192.0.2.0/24:53/udp"],
  ["192.0.2.0/24/udp", "192.0.2.0/24/udp"],
  ["192.0.2.1/32/tcp", "192.0.2.1/tcp"],
  ["2001:DB8::/32", "2001:db8::/32"],
  ["[2001:db8::1]:443", "[2001:db8::1]:443"],
  ["[2001:db8::]", "2001:db8::"],
  ["*", "*"],
  ["*:443", "*:443"],
  ["*/udp", "*/udp"],
  ["0.0.0.0/0", "*"],
  ["::/0", "*"],
  ["[::/0]:53/udp", "*:53/udp"],
])("%j is the rule %j", (text, canonical) => {
  expect(formatRule(parseRule(text, "rule"))).toBe(canonical);
  expect(parseRule(canonical, "rule")).toEqual(parseRule(text, "rule"));
});

describe("what is no rule, or could not be enforced, is refused by name", () => {
  test.each([
    ["", /DOMAIN/],
    ["com", /two labels/],
    ["localhost", /two labels/],
    ["*.com", /two labels/],
    ["a.*.example.com", /beginning/],
    ["*example.com", /beginning/],
    ["**.example.com", /beginning/],
    ["exa mple.com", /two labels/],
    ["-a.example.com", /two labels/],
    ["a..example.com", /two labels/],
    [`${"a".repeat(64)}.example.com`, /two labels/],
    ["1.2.3", /two labels/],
    ["１．２．３．４", /two labels/],
    ["a.0x7f", /two labels/],
    ["10.0.0.1/8", /prefix/],
    ["http://example.com", /1 to 65535/],
    ["example.com/path", /two labels/],
    ["user@éxample.com", /two labels/],
    ["example.com:0", /1 to 65535/],
    ["example.com:65536", /1 to 65535/],
    ["example.com:90-80", /1 to 65535/],
    ["example.com:", /1 to 65535/],
    ["[::1]x", /two labels/],
    ["example.com/udp", /no name that could be checked/],
    ["*.example.com:443/udp", /no name that could be checked/],
    [7, /DOMAIN/],
    [`${"a.".repeat(200)}com`, /DOMAIN/],
  ])("%j", (text, why) => {
    const error = refusal(() => parseRule(text, "network.allow[3]"));
    expect(error.code).toBe("SPEC_INVALID");
    expect(error.details["field"]).toBe("network.allow[3]");
    expect(error.message).toContain("network.allow[3]");
    expect(error.why).toMatch(why);
    expect(error.next).not.toBe("");
  });
});

test("any text is a rule that is read back from its canonical form, or is refused", () => {
  const piece = fc.oneof(
    fc.constantFrom(
      "*",
      ".",
      "*.",
      ":",
      "/udp",
      "/tcp",
      "/",
      "[",
      "]",
      "example",
      "com",
      "10.0.0.0",
      "::",
      "8",
      "443",
      "-",
      "é",
      "xn--",
      "。",
      "%",
    ),
    fc.string({ unit: "grapheme", maxLength: 3 }),
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 8 }), (parts) => {
      let rule: NetworkRule;
      try {
        rule = parseRule(parts.join(""), "rule");
      } catch (error) {
        expect(error).toMatchObject({ code: "SPEC_INVALID" });
        return;
      }
      expect(parseRule(formatRule(rule), "rule")).toEqual(rule);
      expect(formatRule(rule)).toMatch(/^[\x21-\x7e]+$/);
    }),
    { numRuns: 500 },
  );
});

test("a canonical name is its own canonical name", () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.domain(),
        fc.string({ unit: "grapheme" }).map((s) => `${s}.example.com`),
      ),
      (text) => {
        const name = canonicalName(text);
        if (name !== null) expect(canonicalName(name)).toBe(name);
      },
    ),
  );
});

test("a wildcard means what is below, at any depth, at whole labels", () => {
  const rule = parseRule("*.example.com", "rule") as NetworkRule & { kind: "domain" };
  expect(matchesName(rule, "a.example.com")).toBe(true);
  expect(matchesName(rule, "a.b.example.com")).toBe(true);
  expect(matchesName(rule, "example.com")).toBe(false);
  expect(matchesName(rule, "badexample.com")).toBe(false);
});

describe("rules together", () => {
  test("each once, and a denial alone means that the rest is allowed", () => {
    expect(combineRules(["A.org", "a.org."], [], "network")).toEqual({ allow: ["a.org"], deny: [] });
    expect(combineRules([], ["10.0.0.0/8"], "network")).toEqual({ allow: ["*"], deny: ["10.0.0.0/8"] });
    expect(combineRules([], ["*:25"], "network")).toEqual({ allow: ["*"], deny: ["*:25"] });
    expect(combineRules([], ["0.0.0.0/0"], "network")).toEqual({ allow: [], deny: ["*"] });
    expect(combineRules([], [], "network")).toEqual({ allow: [], deny: [] });
  });

  test.each([
    ["*.example.com", "bad.example.com"],
    ["*.example.com", "*.example.com"],
    ["*.example.com", "*.bad.example.com"],
    ["bad.example.com", "bad.example.com"],
    ["bad.example.com", "bad.example.com:443"],
  ])("allow %s makes nothing of deny %s, which is said", (allow, deny) => {
    const error = refusal(() => combineRules([allow], [deny], "network"));
    expect(error.details["field"]).toBe("network.deny[0]");
    expect(error.why).toContain(allow);
  });

  test.each([
    ["*.example.com", "example.com"],
    ["bad.example.com:443", "bad.example.com"],
    ["*.a.example.com", "*.example.com"],
    ["*", "bad.example.com"],
  ])("allow %s beside deny %s stands", (allow, deny) => {
    expect(combineRules([allow], [deny], "network")).toEqual({ allow: [allow], deny: [deny] });
  });
});
