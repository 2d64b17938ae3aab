import {
  ABSENT,
  ALLOW,
  AND,
  BYTES_PER_ARGUMENT,
  digestOf,
  encode,
  ERRNO,
  JUMP_EQUAL,
  load,
  OFFSET_ARGUMENTS,
  programOf,
  REFUSED,
  ret,
  type Instruction,
  type Interval,
} from "../../../seccomp/bpf.ts";
import { HIGHEST_ASSIGNED, SYSCALLS, type Architecture } from "../../../seccomp/syscalls.ts";
import type { ArgumentTest, ConditionalCall, Profile } from "./profile.ts";

function testCode(test: ArgumentTest, toNext: number): Instruction[] {
  const code = [load(OFFSET_ARGUMENTS + BYTES_PER_ARGUMENT * test.index)];
  if (test.mask >>> 0 !== 0xffffffff) code.push({ code: AND, jt: 0, jf: 0, k: test.mask >>> 0 });
  code.push({ code: JUMP_EQUAL, jt: 0, jf: toNext, k: test.value >>> 0 });
  return code;
}

/** Ends with `result` when every test holds, and falls through otherwise. */
function ruleCode(tests: readonly ArgumentTest[], result: number): Instruction[] {
  // Built backwards: a failed test jumps over the tests after it and the result.
  let code = [ret(result)];
  for (const test of tests.toReversed()) code = [...testCode(test, code.length), ...code];
  return code;
}

function conditionCode(call: ConditionalCall, profile: Profile): Instruction[] {
  const pretended = profile.pretended.filter((pretence) => pretence.name === call.name);
  return [
    ...pretended.flatMap(({ tests, errno }) => ruleCode(tests, ERRNO | errno)),
    ...call.alternatives.flatMap((tests) => ruleCode(tests, ALLOW)),
    ret(REFUSED),
  ];
}

function intervals(profile: Profile, arch: Architecture): Interval[] {
  const numbers = SYSCALLS[arch];
  const plain = { allow: [ret(ALLOW)], refuse: [ret(REFUSED)], absent: [ret(ABSENT)] };
  const special = new Map<number, readonly Instruction[]>();
  const put = (name: string, code: readonly Instruction[]): void => {
    const number = numbers.get(name);
    if (number !== undefined) special.set(number, code);
  };
  for (const name of profile.allowed) put(name, plain.allow);
  for (const name of profile.absent) put(name, plain.absent);
  for (const call of profile.conditional) put(call.name, conditionCode(call, profile));
  const result: Interval[] = [];
  for (let number = 0; number <= HIGHEST_ASSIGNED; number += 1) {
    const code = special.get(number) ?? plain.refuse;
    if (result.at(-1)?.code !== code) result.push({ start: number, code });
  }
  result.push({ start: HIGHEST_ASSIGNED + 1, code: plain.absent });
  return result;
}

/** The profile as a classic BPF program for one architecture. */
export function compile(profile: Profile, arch: Architecture): Instruction[] {
  return programOf(arch, intervals(profile, arch));
}

/** A filter ready for use. `digest` is that of the program's bytes, hex sha256. */
export interface Filter {
  readonly name: string;
  readonly arch: Architecture;
  readonly digest: string;
  /** The program, base64. */
  readonly program: string;
}

export function makeFilter(profile: Profile, arch: Architecture): Filter {
  const bytes = encode(compile(profile, arch));
  return { name: profile.name, arch, digest: digestOf(bytes), program: bytes.toString("base64") };
}
