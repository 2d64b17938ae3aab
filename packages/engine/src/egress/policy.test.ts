import { covers, formatAddress, parseAddress, parsePolicy, parseRule, type Transport } from "@bulkhead/contract";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Policy } from "./policy.ts";
import { specialBlock } from "./special.ts";

const PUBLIC = "93.184.216.34";

function policy(allow: readonly string[], deny: readonly string[] = [], own: readonly string[] = []): Policy {
  return new Policy(parsePolicy({ allow, deny }), () => own.map((text) => parseAddress(text)!));
}

function judge(of: Policy, address: string, port: number, names: readonly string[] = [], transport: Transport = "tcp") {
  return of.judge({ address: parseAddress(address)!, port, transport }, names);
}

describe("an address", () => {
  type Case = [allow: string[], deny: string[], address: string, port: number, transport: Transport, verdict: string];
  const cases: readonly Case[] = [
    [[], [], PUBLIC, 443, "tcp", "deny"],
    [[PUBLIC], [], PUBLIC, 443, "tcp", "allow"],
    [[PUBLIC], [], PUBLIC, 443, "udp", "deny"],
    [[`${PUBLIC}/udp`], [], PUBLIC, 443, "udp", "allow"],
    [[`${PUBLIC}/udp`], [], PUBLIC, 443, "tcp", "deny"],
    [["93.184.0.0/16:80-90"], [], PUBLIC, 80, "tcp", "allow"],
    [["93.184.0.0/16:80-90"], [], PUBLIC, 90, "tcp", "allow"],
    [["93.184.0.0/16:80-90"], [], PUBLIC, 91, "tcp", "deny"],
    [["93.184.0.0/16:80-90"], [], "93.185.0.1", 80, "tcp", "deny"],
    [["2606:4700::/32"], [], "2606:4700::1", 443, "tcp", "allow"],
    [["*"], [], PUBLIC, 25, "tcp", "allow"],
    [["*"], [], "2606:4700::1", 25, "tcp", "allow"],
    [["*"], [], PUBLIC, 443, "udp", "deny"],
    [["*/udp"], [], PUBLIC, 443, "udp", "allow"],
    [["*:443"], [], PUBLIC, 443, "tcp", "allow"],
    [["*:443"], [], PUBLIC, 80, "tcp", "deny"],
    [["0.0.0.0/0"], [], "2606:4700::1", 443, "tcp", "allow"],
    // Allow beats deny, and `*` is what holds when neither says anything.
    [[PUBLIC], ["93.184.0.0/16"], PUBLIC, 443, "tcp", "allow"],
    [["93.184.0.0/16"], [PUBLIC], PUBLIC, 443, "tcp", "allow"],
    [["*"], [PUBLIC], PUBLIC, 443, "tcp", "deny"],
    [["*"], [PUBLIC], "93.184.216.35", 443, "tcp", "allow"],
    [["*"], [`${PUBLIC}:25`], PUBLIC, 443, "tcp", "allow"],
    [["*"], ["*:25"], PUBLIC, 25, "tcp", "deny"],
    [["*"], ["*:25"], PUBLIC, 26, "tcp", "allow"],
    [[PUBLIC], ["0.0.0.0/0"], PUBLIC, 443, "tcp", "allow"],
    [[PUBLIC], ["0.0.0.0/0"], "93.184.216.35", 443, "tcp", "deny"],
    [["*", "*/udp"], [PUBLIC], PUBLIC, 443, "udp", "deny"],
    [["*", "*/udp"], [`${PUBLIC}/udp`], PUBLIC, 443, "tcp", "allow"],
    [[], [PUBLIC], "93.184.216.35", 443, "tcp", "allow"],
  ];
  test.each(cases)("allow %j deny %j: %s port %i %s is %s", (allow, deny, address, port, transport, verdict) => {
    expect(judge(policy(allow, deny), address, port, [], transport).verdict).toBe(verdict);
  });

  test.each([
    "127.0.0.1",
    "10.1.2.3",
    "169.254.169.254",
    "100.64.1.1",
    "224.0.0.1",
    "::1",
    "fd00:ec2::254",
    "::ffff:127.0.0.1",
    "64:ff9b::a00:1",
    "203.0.113.9",
  ])("%s is opened by no rule but one that names it", (address) => {
    const own = ["203.0.113.9"];
    for (const allow of [["*"], ["0.0.0.0/1", "128.0.0.0/1"], ["::/1", "8000::/1"], ["*.example.com"]]) {
      expect(judge(policy(allow, [], own), address, 80, ["a.example.com"]).verdict).toBe("deny");
    }
    expect(judge(policy([address], [], own), address, 80).verdict).toBe("allow");
    expect(judge(policy([address], ["*:80", address], own), address, 80).verdict).toBe("allow");
  });
});

describe("a name", () => {
  const cases: ReadonlyArray<[string[], string[], string, number | null, string]> = [
    [["pypi.org"], [], "pypi.org", 443, "allow"],
    [["pypi.org"], [], "a.pypi.org", 443, "deny"],
    [["pypi.org"], [], "notpypi.org", 443, "deny"],
    [["*.pypi.org"], [], "a.b.pypi.org", 443, "allow"],
    [["*.pypi.org"], [], "pypi.org", 443, "deny"],
    [["pypi.org:443"], [], "pypi.org", 443, "allow"],
    [["pypi.org:443"], [], "pypi.org", 80, "deny"],
    [["pypi.org:443"], [], "pypi.org", null, "allow"],
    [[PUBLIC], [], "pypi.org", null, "deny"],
    [["*"], [], "pypi.org", null, "allow"],
    [["*"], ["pypi.org"], "pypi.org", null, "deny"],
    [["*"], ["pypi.org"], "a.pypi.org", null, "allow"],
    [["*"], ["*.pypi.org"], "a.pypi.org", null, "deny"],
    [["*"], ["pypi.org:80"], "pypi.org", null, "allow"],
    [["*"], ["pypi.org:80"], "pypi.org", 80, "deny"],
    [["a.pypi.org"], ["*.pypi.org"], "a.pypi.org", null, "allow"],
    [["a.pypi.org"], ["*.pypi.org"], "b.pypi.org", null, "deny"],
    [["*/udp"], [], "pypi.org", null, "deny"],
  ];
  test.each(cases)("allow %j deny %j: %s on %s is %s", (allow, deny, name, port, verdict) => {
    expect(policy(allow, deny).judgeName(name, port).verdict).toBe(verdict);
  });

  test("an address given for an allowed name has to be asked its name", () => {
    const rules = policy(["pypi.org:443"]);
    expect(judge(rules, PUBLIC, 443, ["pypi.org"]).verdict).toBe("ask-name");
    expect(judge(rules, PUBLIC, 80, ["pypi.org"])).toMatchObject({ verdict: "deny", allow: "pypi.org:80" });
    expect(judge(rules, PUBLIC, 443, [])).toMatchObject({ verdict: "deny", allow: `${PUBLIC}:443` });
    expect(judge(rules, PUBLIC, 443, ["pypi.org"], "udp")).toMatchObject({
      verdict: "deny",
      allow: `${PUBLIC}:443/udp`,
    });
    expect(judge(policy(["pypi.org", PUBLIC]), PUBLIC, 22, ["pypi.org"]).verdict).toBe("allow");
  });

  test("beside a rule for its name, * lets it through as it does anything else", () => {
    expect(judge(policy(["*", "pypi.org"]), PUBLIC, 22, ["pypi.org"]).verdict).toBe("allow");
    expect(judge(policy(["*", "pypi.org"], [PUBLIC]), PUBLIC, 22, ["pypi.org"]).verdict).toBe("ask-name");
  });

  test("where a name is denied, what says no name does not pass by *", () => {
    const rules = policy(["*"], ["evil.example.com"]);
    expect(judge(rules, PUBLIC, 443, [])).toMatchObject({ verdict: "deny", allow: `${PUBLIC}:443` });
    expect(judge(rules, PUBLIC, 443, ["pypi.org"]).verdict).toBe("ask-name");
    expect(judge(rules, PUBLIC, 443, ["evil.example.com"]).verdict).toBe("deny");
  });

  test("an address that may not be reached is not given, whatever the name", () => {
    const given = (of: Policy, name: string, address: string) => of.judgeAnswer(name, parseAddress(address)!);
    expect(given(policy(["pypi.org"]), "pypi.org", PUBLIC)).toBeNull();
    expect(given(policy(["pypi.org"]), "pypi.org", "10.0.0.1")).toMatchObject({ allow: "10.0.0.1" });
    expect(given(policy(["pypi.org"]), "pypi.org", "169.254.169.254")?.why).toMatch(/metadata/);
    expect(given(policy(["pypi.org", "10.0.0.0/8"]), "pypi.org", "10.0.0.1")).toBeNull();
    expect(given(policy(["*"], [PUBLIC]), "pypi.org", PUBLIC)).toMatchObject({ rule: PUBLIC });
    expect(given(policy(["pypi.org"], [PUBLIC]), "pypi.org", PUBLIC)).toBeNull();
  });
});

const address = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 32n - 1n }).map((value) => ({ family: 4 as const, value })),
  fc.bigInt({ min: 0n, max: 2n ** 128n - 1n }).map((value) => ({ family: 6 as const, value })),
);
const port = fc.integer({ min: 1, max: 65_535 });
const transport = fc.constantFrom<Transport>("tcp", "udp");
const rules = fc.array(
  fc.oneof(
    fc.constantFrom("*", "*/udp", "*:443", "pypi.org", "*.example.com", "*.example.com:80"),
    fc.tuple(address, fc.nat(128)).map(([{ family, value }, bits]) => {
      const rest = BigInt(family === 4 ? 32 - Math.min(bits, 32) : 128 - bits);
      const prefix = family === 4 ? Math.min(bits, 32) : bits;
      return `${formatAddress({ family, value: (value >> rest) << rest })}/${prefix}`;
    }),
  ),
  { maxLength: 4 },
);
const names = fc.subarray(["pypi.org", "a.example.com", "evil.org"]);

test("what a refusal says would allow it does allow it, and nothing allows without a rule", () => {
  fc.assert(
    fc.property(rules, address, port, transport, names, (allow, at, on, over, known) => {
      const destination = { address: at, port: on, transport: over };
      const verdict = new Policy(parsePolicy({ allow }), () => []).judge(destination, known);
      if (allow.length === 0) expect(verdict.verdict).toBe("deny");
      if (verdict.verdict !== "deny") return;
      const wider = new Policy(parsePolicy({ allow: [...allow, verdict.allow] }), () => []);
      expect(wider.judge(destination, known).verdict).not.toBe("deny");
    }),
    { numRuns: 500 },
  );
});

test("one more rule that allows never takes anything away", () => {
  fc.assert(
    fc.property(rules, rules, address, port, transport, names, (allow, more, at, on, over, known) => {
      const destination = { address: at, port: on, transport: over };
      const before = new Policy(parsePolicy({ allow }), () => []).judge(destination, known);
      const after = new Policy(parsePolicy({ allow: [...allow, ...more] }), () => []).judge(destination, known);
      if (before.verdict === "allow") expect(after.verdict).toBe("allow");
      if (before.verdict === "ask-name") expect(after.verdict).not.toBe("deny");
    }),
    { numRuns: 500 },
  );
});

test("an address that is not public is allowed only by a range in its own block", () => {
  const special = fc
    .constantFrom("10.1.2.3", "169.254.169.254", "127.0.0.1", "fd00::1", "::1")
    .map((text) => parseAddress(text)!);
  const around = fc.tuple(special, fc.nat(128)).map(([{ family, value }, bits]) => {
    const prefix = Math.min(bits, family === 4 ? 32 : 128);
    const rest = BigInt((family === 4 ? 32 : 128) - prefix);
    return `${formatAddress({ family, value: (value >> rest) << rest })}/${prefix}`;
  });
  fc.assert(
    fc.property(fc.array(around, { maxLength: 3 }), rules, special, names, (allow, more, at, known) => {
      const of = new Policy(parsePolicy({ allow: [...allow, ...more] }), () => []);
      const verdict = of.judge({ address: at, port: 443, transport: "tcp" }, known);
      expect(verdict.verdict).not.toBe("ask-name");
      if (verdict.verdict !== "allow") return;
      const rule = parseRule(verdict.rule, "rule");
      expect(rule.kind === "range" && covers(specialBlock(at)!.range, rule.range)).toBe(true);
    }),
    { numRuns: 500 },
  );
});
