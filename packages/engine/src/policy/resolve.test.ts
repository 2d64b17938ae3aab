import {
  BulkheadError,
  HARDWARE_LEVELS,
  LEVELS,
  TRUSTS,
  TRUST_FLOOR,
  satisfies,
  parseSpec,
  type Level,
} from "@bulkhead/contract";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { resolveSpec } from "./defaults.ts";
import { resolveLevel, type Candidate, type LevelRequest } from "./resolve.ts";

interface TestDriver {
  readonly level: Level;
  readonly name: string;
  readonly capabilities: { readonly hardware: boolean };
}

const runtime = { name: "r", path: "/r", version: "1", digest: "00" };

function there(level: Level, name: string = level, hardware = false): Candidate<TestDriver> {
  return {
    driver: { level, name, capabilities: { hardware } },
    availability: { ok: true, runtime: { ...runtime, name }, notes: [] },
  };
}

function absent(level: Level, name: string = level): Candidate<TestDriver> {
  return {
    driver: { level, name, capabilities: { hardware: false } },
    availability: { ok: false, reason: `${name} is not installed`, remedy: `install ${name}` },
  };
}

function refusal(request: LevelRequest, candidates: readonly Candidate<TestDriver>[]): BulkheadError {
  try {
    resolveLevel(request, candidates);
  } catch (error) {
    if (error instanceof BulkheadError) return error;
    throw error;
  }
  throw new Error("not refused");
}

const both = [there("container"), there("gvisor")];

describe("what is chosen", () => {
  test("nothing said counts as untrusted", () => {
    const choice = resolveLevel({ hardware: false }, both);
    expect(choice.level).toBe("gvisor");
    expect(choice.reasons[0]).toMatch(/counts as untrusted/);
  });

  test("an exact level is that level", () => {
    expect(resolveLevel({ isolation: "container", hardware: false }, both).level).toBe("container");
  });

  test("a floor takes the fastest that satisfies it", () => {
    expect(resolveLevel({ isolation: { atLeast: "container" }, hardware: false }, both).level).toBe("container");
  });

  test("a floor takes a stronger level when the fastest is missing, and says so", () => {
    const choice = resolveLevel({ isolation: { atLeast: "container" }, hardware: false }, [
      absent("container"),
      there("gvisor"),
    ]);
    expect(choice.level).toBe("gvisor");
    expect(choice.reasons.join()).toMatch(/container would be faster but is not available: container is not installed/);
  });

  test("trust raises a floor", () => {
    const request: LevelRequest = { isolation: { atLeast: "container" }, trust: "untrusted", hardware: false };
    expect(resolveLevel(request, both).level).toBe("gvisor");
  });

  test("trusted alone is a container", () => {
    expect(resolveLevel({ trust: "trusted", hardware: false }, both).level).toBe("container");
  });

  test("the first runtime available makes the level", () => {
    const candidates = [absent("container", "container/crun"), there("container", "container/runc")];
    expect(resolveLevel({ isolation: "container", hardware: false }, candidates).driver.name).toBe("container/runc");
  });
});

describe("what is refused", () => {
  test("a level weaker than the trust's floor, never raised silently", () => {
    const error = refusal({ isolation: "container", trust: "untrusted", hardware: false }, both);
    expect(error.code).toBe("POLICY_REFUSED");
    expect(error.next).toMatch(/gvisor/);
  });

  test("a level without hardware virtualisation where it is required", () => {
    expect(refusal({ isolation: "gvisor", hardware: true }, both).code).toBe("POLICY_REFUSED");
  });

  test("a level this build has no driver for, with what there is", () => {
    const error = refusal({ isolation: "microvm", hardware: false }, both);
    expect(error.code).toBe("LEVEL_UNAVAILABLE");
    expect(error.why).toBe("this build of Bulkhead has no microvm driver");
    expect(error.next).toMatch(/container, gvisor/);
  });

  test("a level whose runtimes are missing, with each reason and remedy", () => {
    const error = refusal({ isolation: "container", hardware: false }, [
      absent("container", "container/crun"),
      absent("container", "container/runc"),
      there("gvisor"),
    ]);
    expect(error.why).toBe(
      "container/crun: container/crun is not installed; container/runc: container/runc is not installed",
    );
    expect(error.next).toMatch(/install container\/crun, or install container\/runc/);
  });

  test("an emulated machine where hardware virtualisation is required", () => {
    const error = refusal({ trust: "regulated", hardware: false }, [...both, there("microvm", "microvm/qemu")]);
    expect(error.code).toBe("LEVEL_UNAVAILABLE");
    expect(error.why).toMatch(/microvm\/qemu has no hardware virtualisation/);
  });
});

const level = fc.constantFrom(...LEVELS);
const maybe = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
const request = fc.record({
  isolation: maybe(fc.oneof(level, fc.record({ atLeast: level }))),
  trust: maybe(fc.constantFrom(...TRUSTS)),
  hardware: fc.boolean(),
});
const candidate = fc
  .record({ level, ok: fc.boolean(), hardware: fc.boolean(), n: fc.nat(3) })
  .map(({ level: at, ok, hardware, n }) => (ok ? there(at, `${at}/${n}`, hardware) : absent(at, `${at}/${n}`)));

test("no combination ever yields a level below any floor, and no refusal is untyped", () => {
  fc.assert(
    fc.property(request, fc.array(candidate, { maxLength: 6 }), (asked, candidates) => {
      let choice;
      try {
        choice = resolveLevel(asked, candidates);
      } catch (error) {
        expect(error).toBeInstanceOf(BulkheadError);
        expect(["POLICY_REFUSED", "LEVEL_UNAVAILABLE"]).toContain((error as BulkheadError).code);
        expect((error as BulkheadError).why).toBeTruthy();
        expect((error as BulkheadError).next).toBeTruthy();
        return;
      }
      const { isolation, trust } = asked;
      expect(choice.driver.level).toBe(choice.level);
      if (typeof isolation === "string") expect(choice.level).toBe(isolation);
      if (typeof isolation === "object") expect(satisfies(choice.level, isolation.atLeast)).toBe(true);
      if (trust !== undefined) expect(satisfies(choice.level, TRUST_FLOOR[trust].level)).toBe(true);
      if (isolation === undefined && trust === undefined) expect(satisfies(choice.level, "gvisor")).toBe(true);
      if (asked.hardware || (trust !== undefined && TRUST_FLOOR[trust].hardware)) {
        expect(HARDWARE_LEVELS).toContain(choice.level);
        expect(choice.driver.capabilities.hardware).toBe(true);
      }
      expect(candidates.some((c) => c.driver === choice.driver && c.availability.ok)).toBe(true);
    }),
    { numRuns: 3000 },
  );
});

test("a floor takes no stronger level than it has to", () => {
  fc.assert(
    fc.property(level, fc.array(candidate, { maxLength: 6 }), (floor, candidates) => {
      const able = candidates.filter((c) => c.availability.ok && satisfies(c.driver.level, floor));
      if (able.length === 0) return;
      const fastest = LEVELS.find((one) => able.some((c) => c.driver.level === one));
      expect(resolveLevel({ isolation: { atLeast: floor }, hardware: false }, candidates).level).toBe(fastest);
    }),
  );
});

describe("limits that were not given", () => {
  const choice = { level: "gvisor", reasons: ["a", "b"] } as const;

  test("memory is 2 GiB, or half of a small host", () => {
    expect(resolveSpec(parseSpec({}), choice, { memoryBytes: 2 ** 40 }, {}).memoryBytes).toBe(2 ** 31);
    expect(resolveSpec(parseSpec({}), choice, { memoryBytes: 2 ** 30 }, {}).memoryBytes).toBe(2 ** 29);
  });

  test("processes, disk, user and host name", () => {
    expect(resolveSpec(parseSpec({}), choice, { memoryBytes: 2 ** 40 }, { user: "user" })).toMatchObject({
      pids: 512,
      diskBytes: 2 ** 30,
      user: "user",
      hostname: "bulkhead",
      levelReason: "a; b",
    });
  });

  test("the image's variables and directory, under the spec's own", () => {
    const image = { env: { A: "image", B: "image" }, workdir: "/home/user", user: "" };
    expect(resolveSpec(parseSpec({ env: { B: "spec" } }), choice, { memoryBytes: 2 ** 40 }, image)).toMatchObject({
      env: { A: "image", B: "spec" },
      workdir: "/home/user",
      user: "root",
    });
    expect(resolveSpec(parseSpec({ workdir: "/w" }), choice, { memoryBytes: 2 ** 40 }, image).workdir).toBe("/w");
  });

  test("what was given stays", () => {
    const spec = parseSpec({ pids: 7, memoryBytes: 2 ** 33, diskBytes: 2 ** 21, user: "x", hostname: "h" });
    expect(resolveSpec(spec, choice, { memoryBytes: 2 ** 30 }, { user: "user" })).toMatchObject({
      pids: 7,
      memoryBytes: 2 ** 33,
      diskBytes: 2 ** 21,
      user: "x",
      hostname: "h",
    });
  });
});
