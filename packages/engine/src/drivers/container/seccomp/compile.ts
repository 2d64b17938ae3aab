import { createHash } from "node:crypto";
import type { ArgumentTest, ConditionalCall, Profile } from "./profile.ts";
import { AUDIT_ARCH, HIGHEST_ASSIGNED, SYSCALLS, X32_BIT, type Architecture } from "./syscalls.ts";

/** One classic BPF instruction, as in linux/filter.h. */
export interface Instruction {
  readonly code: number;
  readonly jt: number;
  readonly jf: number;
  readonly k: number;
}

// From linux/bpf_common.h: class | size or operation | mode or source.
export const LOAD = 0x20;
export const JUMP = 0x05;
export const JUMP_EQUAL = 0x15;
export const JUMP_AT_LEAST = 0x35;
export const AND = 0x54;
export const RETURN = 0x06;

// From linux/seccomp.h.
export const ALLOW = 0x7fff0000;
export const KILL_PROCESS = 0x80000000;
export const ERRNO = 0x00050000;
const EPERM = 1;
const ENOSYS = 38;
export const REFUSED = ERRNO | EPERM;
export const ABSENT = ERRNO | ENOSYS;

// struct seccomp_data: nr, arch, instruction pointer, six 64-bit arguments. Both architectures are little-endian.
const OFFSET_NUMBER = 0;
const OFFSET_ARCH = 4;
const OFFSET_ARGUMENTS = 16;
const BYTES_PER_ARGUMENT = 8;
/** A conditional jump reaches this far; farther ones go through an unconditional jump. */
const MAX_SHORT_JUMP = 255;
const BYTES_PER_INSTRUCTION = 8;

const ret = (value: number): Instruction => ({ code: RETURN, jt: 0, jf: 0, k: value >>> 0 });
const load = (offset: number): Instruction => ({ code: LOAD, jt: 0, jf: 0, k: offset });

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

/** From number `start` up to the next interval's, `code` decides. */
interface Interval {
  readonly start: number;
  readonly code: readonly Instruction[];
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

function searchCode(list: readonly Interval[]): readonly Instruction[] {
  const [first] = list;
  if (first === undefined) throw new RangeError("no interval to search");
  if (list.length === 1) return first.code;
  const middle = list.length >> 1;
  const pivot = list[middle] ?? first;
  const below = searchCode(list.slice(0, middle));
  const above = searchCode(list.slice(middle));
  const jump = { code: JUMP_AT_LEAST, k: pivot.start };
  if (below.length <= MAX_SHORT_JUMP) return [{ ...jump, jt: below.length, jf: 0 }, ...below, ...above];
  return [{ ...jump, jt: 0, jf: 1 }, { code: JUMP, jt: 0, jf: 0, k: below.length }, ...below, ...above];
}

/**
 * The profile as a classic BPF program for one architecture: another architecture's calls end the process (their
 * numbers mean other things), x32's do not exist, the rest is found by binary search over the numbers.
 */
export function compile(profile: Profile, arch: Architecture): Instruction[] {
  const code: Instruction[] = [
    load(OFFSET_ARCH),
    { code: JUMP_EQUAL, jt: 1, jf: 0, k: AUDIT_ARCH[arch] },
    ret(KILL_PROCESS),
    load(OFFSET_NUMBER),
  ];
  if (arch === "x64") code.push({ code: JUMP_AT_LEAST, jt: 0, jf: 1, k: X32_BIT }, ret(ABSENT));
  return [...code, ...searchCode(intervals(profile, arch))];
}

/** struct sock_filter after struct sock_filter, little-endian. */
export function encode(program: readonly Instruction[]): Buffer {
  const bytes = Buffer.alloc(program.length * BYTES_PER_INSTRUCTION);
  for (const [index, { code, jt, jf, k }] of program.entries()) {
    const at = index * BYTES_PER_INSTRUCTION;
    bytes.writeUInt16LE(code, at);
    bytes.writeUInt8(jt, at + 2);
    bytes.writeUInt8(jf, at + 3);
    bytes.writeUInt32LE(k, at + 4);
  }
  return bytes;
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
  const digest = createHash("sha256").update(bytes).digest("hex");
  return { name: profile.name, arch, digest, program: bytes.toString("base64") };
}
