import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ABSENT, ALLOW, encode, ERRNO, JUMP, JUMP_EQUAL, KILL_PROCESS, REFUSED, RETURN } from "../../../seccomp/bpf.ts";
import { run, type Call } from "../../../testing/bpf.ts";
import { compile, makeFilter } from "./compile.ts";
import { PROFILE, type ArgumentTest } from "./profile.ts";
import { AUDIT_ARCH, HIGHEST_ASSIGNED, SYSCALLS, X32_BIT, type Architecture } from "../../../seccomp/syscalls.ts";

/** BPF_MAXINSNS of linux/bpf_common.h. */
const KERNEL_MAX_INSTRUCTIONS = 4096;

const holds = (tests: readonly ArgumentTest[], args: readonly bigint[]): boolean =>
  tests.every(({ index, mask, value }) => (Number(args[index]! & 0xffffffffn) & mask) >>> 0 === value >>> 0);

/** The profile's meaning, written the slow way. */
function meaning(arch: Architecture, call: Call): number {
  if (call.arch !== AUDIT_ARCH[arch]) return KILL_PROCESS;
  if (call.number > HIGHEST_ASSIGNED) return ABSENT;
  const name = [...SYSCALLS[arch]].find(([, number]) => number === call.number)?.[0] ?? "";
  if (PROFILE.absent.includes(name)) return ABSENT;
  if (PROFILE.allowed.includes(name)) return ALLOW;
  const pretence = PROFILE.pretended.find((entry) => entry.name === name && holds(entry.tests, call.args));
  if (pretence !== undefined) return ERRNO | pretence.errno;
  const conditional = PROFILE.conditional.find((entry) => entry.name === name);
  return conditional?.alternatives.some((tests) => holds(tests, call.args)) ? ALLOW : REFUSED;
}

const ZEROES = [0n, 0n, 0n, 0n, 0n, 0n];
const word = fc.oneof(
  fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }),
  fc.nat({ max: 64 }).map(BigInt),
  fc.constantFrom(0x7e020000n, 0x10000000n, 0xffffffffn, 0x1_0000_0001n, 0xffff_ffff_0000_0000n),
);
const conditionalNames = [...PROFILE.conditional.map((call) => call.name)];

describe.each(["x64", "arm64"] as const)("the filter for %s", (arch) => {
  const program = compile(PROFILE, arch);
  const native = AUDIT_ARCH[arch];

  test("fits the kernel's limits and only jumps forward inside itself", () => {
    expect(program.length).toBeLessThan(KERNEL_MAX_INSTRUCTIONS);
    for (const [at, { code, jt, jf, k }] of program.entries()) {
      const far = code === JUMP ? k : Math.max(jt, jf);
      expect(at + 1 + far).toBeLessThanOrEqual(program.length);
      expect(Math.max(jt, jf)).toBeLessThanOrEqual(255);
    }
    expect(program.at(-1)?.code).toBe(RETURN);
  });

  test("decides every number as the profile says", () => {
    for (let number = 0; number <= HIGHEST_ASSIGNED + 50; number += 1) {
      const call = { number, arch: native, args: ZEROES };
      expect([number, run(program, call)]).toEqual([number, meaning(arch, call)]);
    }
  });

  test("decides any call as the profile says", () => {
    const numbers = fc.oneof(
      fc.nat({ max: 500 }),
      fc.constantFrom(...conditionalNames.flatMap((name) => SYSCALLS[arch].get(name) ?? [])),
      fc.nat({ max: 0xffffffff }),
    );
    const arches = fc.oneof({ weight: 9, arbitrary: fc.constant(native) }, { weight: 1, arbitrary: fc.nat() });
    const args = fc.array(word, { minLength: 6, maxLength: 6 });
    fc.assert(
      fc.property(numbers, arches, args, (number, callArch, values) => {
        const call = { number, arch: callArch, args: values };
        expect(run(program, call)).toBe(meaning(arch, call));
      }),
      { numRuns: 20_000 },
    );
  });

  test("ends a process that uses another architecture's calls", () => {
    const I386 = 0x40000003;
    for (const number of [0, 20, 102, 359]) {
      expect(run(program, { number, arch: I386, args: ZEROES })).toBe(KILL_PROCESS);
    }
  });
});

test("x32 calls do not exist", () => {
  const program = compile(PROFILE, "x64");
  for (const number of [X32_BIT, X32_BIT | 1, X32_BIT | 512, 0xffffffff]) {
    expect(run(program, { number, arch: AUDIT_ARCH.x64, args: ZEROES })).toBe(ABSENT);
  }
});

test("upper halves of arguments change nothing", () => {
  const program = compile(PROFILE, "x64");
  const clone = SYSCALLS.x64.get("clone")!;
  const CLONE_NEWUSER = 0x10000000n;
  for (const flags of [CLONE_NEWUSER, CLONE_NEWUSER | (1n << 40n), 0x7fffffffffffffffn]) {
    expect(run(program, { number: clone, arch: AUDIT_ARCH.x64, args: [flags, 0n, 0n, 0n, 0n, 0n] })).toBe(REFUSED);
  }
  const socket = SYSCALLS.x64.get("socket")!;
  const AF_VSOCK = 40n;
  for (const family of [AF_VSOCK, AF_VSOCK | (1n << 32n)]) {
    expect(run(program, { number: socket, arch: AUDIT_ARCH.x64, args: [family, 1n, 0n, 0n, 0n, 0n] })).toBe(REFUSED);
  }
});

test("no more numbers are reachable on x86_64 than promised", () => {
  const PROMISED = 237;
  const reachable = [...PROFILE.allowed, ...PROFILE.conditional.map((call) => call.name)];
  expect(reachable.filter((name) => SYSCALLS.x64.has(name)).length).toBeLessThanOrEqual(PROMISED);
});

test("every name of the profile has a number on x86_64, and no number has two names", () => {
  const names = [...PROFILE.allowed, ...PROFILE.absent, ...conditionalNames];
  expect(names.filter((name) => !SYSCALLS.x64.has(name))).toEqual([]);
  for (const table of Object.values(SYSCALLS)) expect(new Set(table.values()).size).toBe(table.size);
});

test("a program is eight bytes an instruction, and its digest is that of its bytes", () => {
  expect(encode([{ code: JUMP_EQUAL, jt: 1, jf: 2, k: 0xc000003e }]).toString("hex")).toBe("150001023e0000c0");
  const filter = makeFilter(PROFILE, "x64");
  expect(Buffer.from(filter.program, "base64").length).toBe(8 * compile(PROFILE, "x64").length);
});
