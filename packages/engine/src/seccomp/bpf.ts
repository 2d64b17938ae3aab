/** Classic BPF as seccomp runs it: instructions, a search over call numbers, the frame that every filter here has. */
import { createHash } from "node:crypto";
import { AUDIT_ARCH, X32_BIT, type Architecture } from "./syscalls.ts";

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
export const JUMP_ABOVE = 0x25;
export const AND = 0x54;
export const RETURN = 0x06;

// From linux/seccomp.h.
export const ALLOW = 0x7fff0000;
export const KILL_PROCESS = 0x80000000;
export const ERRNO = 0x00050000;
export const KILL_THREAD = 0;
export const TRAP = 0x00030000;
export const LOG = 0x7ffc0000;
const EPERM = 1;
const ENOSYS = 38;
export const REFUSED = ERRNO | EPERM;
export const ABSENT = ERRNO | ENOSYS;

// struct seccomp_data: nr, arch, instruction pointer, six 64-bit arguments. Both architectures are little-endian.
const OFFSET_NUMBER = 0;
const OFFSET_ARCH = 4;
export const OFFSET_ARGUMENTS = 16;
export const BYTES_PER_ARGUMENT = 8;
/** A conditional jump reaches this far; farther ones go through an unconditional jump. */
const MAX_SHORT_JUMP = 255;
const BYTES_PER_INSTRUCTION = 8;

export const ret = (value: number): Instruction => ({ code: RETURN, jt: 0, jf: 0, k: value >>> 0 });
export const load = (offset: number): Instruction => ({ code: LOAD, jt: 0, jf: 0, k: offset });

/** From number `start` up to the next interval's, `code` decides. */
export interface Interval {
  readonly start: number;
  readonly code: readonly Instruction[];
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
 * A whole program: another architecture's calls end the process (their numbers mean other things), x32's do not exist, the
 * rest is found by binary search over the numbers. `list` begins at 0.
 */
export function programOf(arch: Architecture, list: readonly Interval[]): Instruction[] {
  const code: Instruction[] = [
    load(OFFSET_ARCH),
    { code: JUMP_EQUAL, jt: 1, jf: 0, k: AUDIT_ARCH[arch] },
    ret(KILL_PROCESS),
    load(OFFSET_NUMBER),
  ];
  if (arch === "x64") code.push({ code: JUMP_AT_LEAST, jt: 0, jf: 1, k: X32_BIT }, ret(ABSENT));
  return [...code, ...searchCode(list)];
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

/** sha256 of a program's bytes, hex. */
export function digestOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
