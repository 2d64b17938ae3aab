import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { run, type Call } from "../testing/bpf.ts";
import { ABSENT, ALLOW, ERRNO, JUMP, KILL_PROCESS, KILL_THREAD, LOG, RETURN, TRAP, type Instruction } from "./bpf.ts";
import { compileGiven } from "./given.ts";
import { OPERATIONS, type Comparison, type GivenProfile, type Rule } from "./parse.ts";
import { AUDIT_ARCH, HIGHEST_ASSIGNED, SYSCALLS, X32_BIT, type Architecture } from "./syscalls.ts";

const MOST = 2n ** 64n - 1n;
const INSTRUCTIONS_MAX = 4096;
const errno = (number: number): number => (ERRNO | number) >>> 0;

/** Numbers that differ in one half, by one, or not at all: where a comparison of halves goes wrong. */
const word = fc.oneof(
  fc.constantFrom(0n, 1n, 2n, 0xffffffffn, 0x1_0000_0000n, 0x1_0000_0001n, 0xffff_ffff_0000_0000n, MOST - 1n, MOST),
  fc.bigInt({ min: 0n, max: MOST }),
);
const comparison: fc.Arbitrary<Comparison> = fc.record({
  index: fc.nat({ max: 5 }),
  op: fc.constantFrom(...OPERATIONS),
  value: word,
  valueTwo: word,
});
const comparisons = fc.uniqueArray(comparison, { maxLength: 4, selector: ({ index }) => index });
const action = fc.constantFrom(ALLOW, LOG, TRAP, KILL_THREAD, KILL_PROCESS, errno(1), errno(38), errno(4094), errno(0));
const NAMES = ["read", "openat", "socket", "clone", "prctl", "statx", "futex_waitv"];
const rules: fc.Arbitrary<Rule[]> = fc.array(fc.record({ name: fc.constantFrom(...NAMES), action, comparisons }), {
  maxLength: 12,
});

/** One comparison, the slow way. */
function holds({ index, op, value, valueTwo }: Comparison, args: readonly bigint[]): boolean {
  const given = args[index]!;
  const answers: Readonly<Record<Comparison["op"], boolean>> = {
    NE: given !== value,
    LT: given < value,
    LE: given <= value,
    EQ: given === value,
    GE: given >= value,
    GT: given > value,
    MASKED_EQ: (given & value) === (valueTwo & value),
  };
  return answers[op];
}

/** From include/uapi/linux/seccomp.h, the strictest first. */
const ORDER = [KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, LOG, ALLOW];
const rank = (verdict: number): number => ORDER.indexOf((verdict & 0xffff0000) >>> 0);

/** What the profile means, the slow way: of all rules that hold the strictest, of those the first. */
function meaning({ rules: all, defaultAction }: GivenProfile, arch: Architecture, call: Call): number {
  if (call.arch !== AUDIT_ARCH[arch]) return KILL_PROCESS;
  if (arch === "x64" && call.number >= X32_BIT) return ABSENT;
  const permissive = defaultAction === ALLOW || defaultAction === LOG;
  if (call.number > HIGHEST_ASSIGNED) return permissive ? defaultAction : ABSENT;
  const name = [...SYSCALLS[arch]].find(([, number]) => number === call.number)?.[0];
  const found = all.filter((rule) => rule.name === name && rule.comparisons.every((one) => holds(one, call.args)));
  // Rules without comparisons stand before others of the same action, which then say the same.
  const [first] = found.toSorted(
    (a, b) => rank(a.action) - rank(b.action) || Math.min(a.comparisons.length, 1) - Math.min(b.comparisons.length, 1),
  );
  return first?.action ?? defaultAction;
}

/** execve has to be let through, or nothing could start. */
const profileOf = (list: readonly Rule[], defaultAction: number): GivenProfile => ({
  name: "test",
  defaultAction,
  rules: [...list, { name: "execve", action: ALLOW, comparisons: [] }],
  unknown: [],
});

/** Arguments near what the rules compare with. */
function argumentsFor(list: readonly Rule[]): fc.Arbitrary<bigint[]> {
  const near = list.flatMap(({ comparisons: all }) =>
    all.flatMap(({ value, valueTwo }) => [value, value - 1n, value + 1n, valueTwo]),
  );
  const each = fc.oneof(word, fc.constantFrom(0n, ...near.map((one) => BigInt.asUintN(64, one))));
  return fc.array(each, { minLength: 6, maxLength: 6 });
}

const numbersOf = (arch: Architecture) =>
  fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom(...NAMES.map((name) => SYSCALLS[arch].get(name)!)) },
    { weight: 1, arbitrary: fc.nat({ max: 600 }) },
    { weight: 1, arbitrary: fc.nat({ max: 0xffffffff }) },
  );

describe.each(["x64", "arm64"] as const)("a given profile for %s", { timeout: 120_000 }, (arch) => {
  test("decides any call as it says", () => {
    const cases = rules.chain((list) =>
      fc.tuple(
        fc.constant(list),
        action,
        fc.array(fc.tuple(numbersOf(arch), argumentsFor(list)), { minLength: 20, maxLength: 20 }),
      ),
    );
    fc.assert(
      fc.property(cases, ([list, byDefault, calls]) => {
        const profile = profileOf(list, byDefault);
        const { program } = compileGiven(profile, arch);
        for (const [number, args] of calls) {
          const call = { number, arch: AUDIT_ARCH[arch], args };
          expect(run(program, call)).toBe(meaning(profile, arch, call));
        }
      }),
      { numRuns: 200 },
    );
  });

  test("is what the kernel's checker takes: forward jumps inside itself, a return at the end", () => {
    fc.assert(
      fc.property(rules, action, (list, byDefault) => {
        const { program } = compileGiven(profileOf(list, byDefault), arch);
        expect(program.length).toBeLessThanOrEqual(INSTRUCTIONS_MAX);
        for (const [at, { code, jt, jf, k }] of program.entries()) {
          expect(at + 1 + (code === JUMP ? k : Math.max(jt, jf))).toBeLessThanOrEqual(program.length);
          expect(Math.max(jt, jf)).toBeLessThanOrEqual(255);
          expect(jt).toBeGreaterThanOrEqual(0);
        }
        expect(program.at(-1)?.code).toBe(RETURN);
      }),
      { numRuns: 60 },
    );
  });

  test("ends a process that makes another architecture's calls", () => {
    const { program } = compileGiven(profileOf([], ALLOW), arch);
    const args = [0n, 0n, 0n, 0n, 0n, 0n];
    expect(run(program, { number: 20, arch: 0x40000003, args })).toBe(KILL_PROCESS);
  });
});

/** What libseccomp, which runc and crun compile with, makes of the same profiles. */
function libseccomp(profiles: readonly GivenProfile[], arch: Architecture): Instruction[][] | string {
  const script = fileURLToPath(new URL("../testing/libseccomp.py", import.meta.url));
  const lines = profiles.map(({ defaultAction, rules: all }) =>
    JSON.stringify({
      default: defaultAction,
      rules: all.map(({ name, action: verdict, comparisons: list }) => ({
        number: SYSCALLS[arch].get(name),
        action: verdict,
        args: list.map(({ index, op, value, valueTwo }) => [index, op, `${value}`, `${valueTwo}`]),
      })),
    }),
  );
  const done = spawnSync("/usr/bin/python3", [script], {
    input: `${lines.join("\n")}\n`,
    encoding: "utf8",
    maxBuffer: 2 ** 28,
  });
  if (done.status !== 0) return `${done.error ?? done.stderr}`;
  return done.stdout
    .trim()
    .split("\n")
    .map((line) => {
      const bytes = Buffer.from(line, "hex");
      return Array.from({ length: bytes.length / 8 }, (_, i) => ({
        code: bytes.readUInt16LE(8 * i),
        jt: bytes[8 * i + 2]!,
        jf: bytes[8 * i + 3]!,
        k: bytes.readUInt32LE(8 * i + 4),
      }));
    });
}

const native: Architecture = process.arch === "arm64" ? "arm64" : "x64";
const answer = libseccomp([profileOf([], ALLOW)], native);
const lack =
  typeof answer === "string" ? `: NOT TESTED, python3 or libseccomp is not there: ${answer.slice(0, 120)}` : "";

// What libseccomp does with rules that hold at once and want different things depends on its tree; ours is told in docs/seccomp.md.
const agreed = fc.uniqueArray(fc.record({ name: fc.constantFrom(...NAMES), action, comparisons }), {
  maxLength: 7,
  selector: ({ name }) => name,
});

// Compared with the library that the runtimes load; where it or python3 is not there, the slow evaluator above still judges.
test.skipIf(lack !== "")(`verdicts are those of libseccomp's program${lack}`, { timeout: 120_000 }, () => {
  const made = fc.sample(fc.tuple(agreed, fc.constantFrom(ALLOW, errno(1), errno(38), KILL_PROCESS, TRAP, LOG)), 150);
  const profiles = made.map(([list, byDefault]) => profileOf(list, byDefault));
  const theirs = libseccomp(profiles, native);
  if (typeof theirs === "string") throw new Error(theirs);
  for (const [index, profile] of profiles.entries()) {
    const { program } = compileGiven(profile, native);
    const names = fc.constantFrom(...NAMES, "execve", "write");
    for (const [name, args] of fc.sample(fc.tuple(names, argumentsFor(profile.rules)), 60)) {
      const call = { number: SYSCALLS[native].get(name)!, arch: AUDIT_ARCH[native], args };
      const shown = { name, args, profile };
      expect({ ...shown, verdict: run(program, call) }).toEqual({ ...shown, verdict: run(theirs[index]!, call) });
    }
  }
});

describe("what cannot be had", () => {
  test("a profile under which nothing could start", () => {
    const profile = { name: "p.json", defaultAction: errno(1), rules: [], unknown: [] };
    expect(() => compileGiven(profile, "x64")).toThrow(
      expect.objectContaining({ code: "SPEC_INVALID", why: expect.stringMatching(/execve/) }),
    );
  });

  test("a program longer than the kernel takes", () => {
    const all = [...SYSCALLS.x64.keys()].flatMap((name, i) =>
      [1n, 2n, 3n, 4n].map((n) => ({
        name,
        action: ALLOW,
        comparisons: [{ index: 0, op: "EQ" as const, value: n * 1000n + BigInt(i), valueTwo: 0n }],
      })),
    );
    const profile = {
      name: "p.json",
      defaultAction: errno(1),
      rules: [...all, ...profileOf([], ALLOW).rules],
      unknown: [],
    };
    expect(() => compileGiven(profile, "x64")).toThrow(expect.objectContaining({ why: expect.stringMatching(/4096/) }));
  });

  test("a count of what is let through", () => {
    const one = { index: 0, op: "EQ" as const, value: 1n, valueTwo: 0n };
    const list = [
      { name: "read", action: ALLOW, comparisons: [] },
      { name: "write", action: LOG, comparisons: [] },
      { name: "socket", action: ALLOW, comparisons: [one] },
      { name: "ptrace", action: errno(2), comparisons: [] },
    ];
    expect(compileGiven(profileOf(list, errno(1)), "x64")).toMatchObject({ calls: 4, byArgument: 1 });
  });
});
