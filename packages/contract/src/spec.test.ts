import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BulkheadError } from "./errors.ts";
import { specSchema } from "./schema.ts";
import { parseSpec } from "./spec.ts";

function failure(input: unknown): BulkheadError {
  try {
    parseSpec(input);
  } catch (error) {
    if (error instanceof BulkheadError) return error;
    throw error;
  }
  throw new Error(`accepted ${JSON.stringify(input)}`);
}

test("an empty spec gets every default that depends on no machine", () => {
  expect(parseSpec({})).toEqual({
    hardware: false,
    image: "base",
    env: {},
    mounts: [],
    volumes: [],
    network: "none",
    allowSetuid: false,
  });
});

describe("a refusal names the field, the value and the next step", () => {
  const cases: ReadonlyArray<[unknown, string, RegExp, RegExp]> = [
    [{ isolation: "gvisr" }, "isolation", /"gvisr"/, /did you mean gvisor/],
    [{ isolation: { atLeast: "vm" } }, "isolation.atLeast", /"vm"/, /container or gvisor or microvm/],
    [{ trust: "unstrusted" }, "trust", /"unstrusted"/, /did you mean (un)?trusted/],
    [{ memoryBytes: 0 }, "memoryBytes", /memoryBytes 0/, /at least 16777216/],
    [{ cpus: -1 }, "cpus", /cpus -1/, /0.01/],
    [{ pids: 1.5 }, "pids", /1\.5/, /from 1/],
    [{ workdir: "here" }, "workdir", /"here"/, /leading \//],
    [{ mounts: [{ source: "/a", target: "b" }] }, "mounts[0].target", /"b"/, /leading \//],
    [{ volumes: [{ name: "../v", target: "/v" }] }, "volumes[0].name", /"..\/v"/, /change volumes/],
    [{ env: { "A=B": "x" } }, "env", /"A=B"/, /change env/],
    [{ network: "all" }, "network", /"all"/, /none/],
    [{ network: { allow: ["a.org", "*.com"] } }, "network.allow[1]", /"\*\.com"/, /like pypi/],
    [{ network: { allow: "a.org" } }, "network.allow", /"a.org"/, /wildcard/],
    [{ network: { rateBytesPerSecond: 1 } }, "network.rateBytesPerSecond", /1/, /at least 1024/],
    [{ network: { alow: [] } }, "alow", /no field "alow"/, /did you mean allow/],
    [{ seccomp: { name: "p", json: "" } }, "seccomp.json", /""/, /length/],
    [{ entrypoint: ["a", "b\0"] }, "entrypoint[1]", /b/, /change entrypoint/],
    [{ stopSignal: "term" }, "stopSignal", /"term"/, /change stopSignal/],
    [{ hostname: "-x" }, "hostname", /"-x"/, /change hostname/],
    [{ memroyBytes: 1 }, "memroyBytes", /no field "memroyBytes"/, /did you mean memoryBytes/],
    ["text", "spec", /"text"/, /object/],
  ];
  test.each(cases)("%j", (input, field, what, next) => {
    const error = failure(input);
    expect(error.code).toBe("SPEC_INVALID");
    expect(error.details["field"]).toBe(field);
    expect(error.message).toMatch(what);
    expect(error.next).toMatch(next);
    expect(error.why).toBeTruthy();
  });
});

const junk = fc.oneof(
  fc.string({ maxLength: 8 }),
  fc.integer(),
  fc.double(),
  fc.boolean(),
  fc.constant(null),
  fc.constant("/abs"),
  fc.constant(["a"]),
);
const level = fc.constantFrom("container", "gvisor", "microvm");
const rule = fc.constantFrom(
  "A.org",
  "*.a.org:443",
  "b.a.org",
  "10.0.0.0/8",
  "10.0.0.1/8",
  "[::1]:53/udp",
  "*",
  "a.org/udp",
  "",
);
const rules = fc.oneof(fc.array(fc.oneof(rule, junk), { maxLength: 2 }), fc.array(rule, { maxLength: 3 }), junk);
const anyNetwork = fc.record(
  {
    allow: rules,
    deny: rules,
    rateBytesPerSecond: fc.oneof(fc.nat(), junk),
    sendBytesPerSecond: fc.oneof(fc.nat(), junk),
    receiveBytesPerSecond: fc.oneof(fc.nat(), junk),
    other: junk,
  },
  { requiredKeys: [] },
);
const anySecret = fc.record(
  {
    host: fc.oneof(fc.constantFrom("API.example.com", "a.org", "*.a.org", "a.org:443", "10.0.0.1"), junk),
    header: fc.oneof(fc.constantFrom("Authorization", "x-key", "Host", "a b"), junk),
    value: fc.oneof(fc.constantFrom("Bearer x", "x\r\ny: z", " x", ""), junk),
    other: junk,
  },
  { requiredKeys: ["host", "header", "value"] },
);
const anySpec = fc.record(
  {
    isolation: fc.oneof(level, fc.record({ atLeast: level }), junk),
    trust: fc.oneof(fc.constantFrom("trusted", "untrusted", "multi-tenant", "regulated"), junk),
    hardware: fc.oneof(fc.boolean(), junk),
    image: fc.oneof(fc.string(), junk),
    user: fc.oneof(fc.string(), junk),
    workdir: fc.oneof(fc.constant("/w"), fc.constant("/a\0b"), junk),
    env: fc.oneof(fc.dictionary(fc.string(), fc.string()), junk),
    cpus: fc.oneof(fc.double({ min: 0, max: 2000 }), junk),
    memoryBytes: fc.oneof(fc.nat(), fc.constant(2 ** 33), junk),
    pids: fc.oneof(fc.nat(), junk),
    diskBytes: fc.oneof(fc.nat(), junk),
    timeoutMs: fc.oneof(fc.nat(), junk),
    cpuWeight: fc.oneof(fc.nat({ max: 20_000 }), junk),
    diskInodes: fc.oneof(fc.nat(), junk),
    diskIops: fc.oneof(fc.nat(), junk),
    diskBytesPerSecond: fc.oneof(fc.nat(), junk),
    diskBacking: fc.oneof(fc.constantFrom("file", "memory"), junk),
    keep: fc.oneof(fc.constantFrom("a", "a.b_c-1", ".a", "A", "a/b", "a".repeat(64)), junk),
    openFiles: fc.oneof(fc.nat({ max: 2 ** 21 }), junk),
    idleTimeoutMs: fc.oneof(fc.nat(), junk),
    outputMaxBytes: fc.oneof(fc.nat(), junk),
    mounts: fc.oneof(fc.array(fc.record({ source: junk, target: junk, readOnly: junk }), { maxLength: 3 }), junk),
    volumes: fc.oneof(
      fc.array(
        fc.record({
          name: fc.oneof(fc.constantFrom("v", "a.b", ".a", "A"), junk),
          target: junk,
          readOnly: junk,
          shared: fc.oneof(fc.boolean(), junk),
        }),
        { maxLength: 3 },
      ),
      junk,
    ),
    network: fc.oneof(fc.constant("none"), anyNetwork, junk),
    allowSetuid: fc.oneof(fc.boolean(), junk),
    hostname: fc.oneof(fc.constant("a-b"), junk),
    seccomp: fc.oneof(fc.record({ name: fc.oneof(fc.string(), junk), json: fc.oneof(fc.string(), junk) }), junk),
    entrypoint: fc.oneof(fc.array(fc.oneof(fc.string(), junk), { maxLength: 3 }), fc.array(fc.string()), junk),
    stopSignal: fc.oneof(fc.constantFrom("SIGTERM", "15", "99", "RTMIN+3", "term"), junk),
    stopTimeoutMs: fc.oneof(fc.nat(), fc.constant(2 ** 31), junk),
    secrets: fc.oneof(fc.array(fc.oneof(anySecret, junk), { maxLength: 3 }), junk),
    proxyVariables: fc.oneof(fc.boolean(), junk),
    other: junk,
  },
  { requiredKeys: [] },
);

test("the parser and the published schema accept the same specs and give the same result", { timeout: 60_000 }, () => {
  fc.assert(
    fc.property(anySpec, (input) => {
      const reference = specSchema.safeParse(input);
      if (reference.success) expect(parseSpec(input)).toEqual(reference.data);
      else expect(failure(input).code).toBe("SPEC_INVALID");
    }),
    { numRuns: 2000 },
  );
});

test("a value that JSON has no words for is refused by name too", () => {
  const loop: Record<string, unknown> = {};
  loop["self"] = loop;
  for (const memoryBytes of [2n ** 60n, [1n], loop, () => 1, Symbol("x")]) {
    expect(failure({ memoryBytes }).message).toMatch(/memoryBytes/);
  }
});

test("a network is read to its canonical form, and that to itself", () => {
  const { network } = parseSpec({ network: { allow: ["PyPI.org."], rateBytesPerSecond: 4096 } });
  expect(network).toEqual({ allow: ["pypi.org"], deny: [], rateBytesPerSecond: 4096 });
  expect(parseSpec({ network }).network).toEqual(network);
});

test("parsing what was parsed changes nothing", () => {
  fc.assert(
    fc.property(level, fc.integer({ min: 1, max: 4000 }), (isolation, pids) => {
      const once = parseSpec({ isolation, pids });
      expect(parseSpec(once)).toEqual(once);
    }),
  );
});
