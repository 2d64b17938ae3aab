/** A profile that was given, compiled. It is put on every program besides the level's own filter, so it can only narrow. */
import { BulkheadError } from "@bulkhead/contract";
import {
  ABSENT,
  ALLOW,
  AND,
  BYTES_PER_ARGUMENT,
  JUMP_ABOVE,
  JUMP_AT_LEAST,
  JUMP_EQUAL,
  LOG,
  load,
  OFFSET_ARGUMENTS,
  programOf,
  ret,
  type Instruction,
  type Interval,
} from "./bpf.ts";
import type { Comparison, GivenProfile, Rule } from "./parse.ts";
import { HIGHEST_ASSIGNED, SYSCALLS, type Architecture } from "./syscalls.ts";

/** BPF_MAXINSNS of linux/bpf_common.h. */
const INSTRUCTIONS_MAX = 4096;
const LOW = 0xffff_ffffn;
const ACTION_BITS = 0xffff0000;

/** Where a jump of a comparison goes: on with the next instruction, to what follows the comparison, to what follows its rule. */
type Target = "on" | "holds" | "fails";
interface Step {
  readonly code: number;
  readonly k: number;
  readonly yes: Target;
  readonly no: Target;
}

const straight = (instruction: Instruction): Step => ({ ...instruction, yes: "on", no: "on" });
const jump = (code: number, k: bigint, yes: Target, no: Target): Step => ({ code, k: Number(k), yes, no });

/** Both halves of an argument, the high one first: it decides unless it is equal. */
function stepsOf({ index, op, value, valueTwo }: Comparison): Step[] {
  const offset = OFFSET_ARGUMENTS + BYTES_PER_ARGUMENT * index;
  const high = straight(load(offset + 4));
  const low = straight(load(offset));
  const [top, bottom] = [value >> 32n, value & LOW];
  const ordered = (above: Target, below: Target, last: Step): Step[] => [
    high,
    jump(JUMP_ABOVE, top, above, "on"),
    jump(JUMP_EQUAL, top, "on", below),
    low,
    last,
  ];
  switch (op) {
    case "EQ":
      return [high, jump(JUMP_EQUAL, top, "on", "fails"), low, jump(JUMP_EQUAL, bottom, "holds", "fails")];
    case "NE":
      return [high, jump(JUMP_EQUAL, top, "on", "holds"), low, jump(JUMP_EQUAL, bottom, "fails", "holds")];
    case "GT":
      return ordered("holds", "fails", jump(JUMP_ABOVE, bottom, "holds", "fails"));
    case "GE":
      return ordered("holds", "fails", jump(JUMP_AT_LEAST, bottom, "holds", "fails"));
    case "LT":
      return ordered("fails", "holds", jump(JUMP_AT_LEAST, bottom, "fails", "holds"));
    case "LE":
      return ordered("fails", "holds", jump(JUMP_ABOVE, bottom, "fails", "holds"));
    case "MASKED_EQ": {
      // As libseccomp: bits outside the mask are not compared, in the value neither.
      const wanted = valueTwo & value;
      const masked = (mask: bigint): Step => straight({ code: AND, jt: 0, jf: 0, k: Number(mask) });
      return [
        high,
        masked(top),
        jump(JUMP_EQUAL, wanted >> 32n, "on", "fails"),
        low,
        masked(bottom),
        jump(JUMP_EQUAL, wanted & LOW, "holds", "fails"),
      ];
    }
  }
}

/** Ends with the rule's action where all comparisons hold, and falls through otherwise. */
function ruleCode({ comparisons, action }: Rule): Instruction[] {
  const parts = comparisons.map(stepsOf);
  // Six comparisons of six instructions: every jump is short.
  const total = parts.reduce((sum, part) => sum + part.length, 0);
  const code: Instruction[] = [];
  let end = 0;
  for (const part of parts) {
    end += part.length;
    for (const { code: operation, k, yes, no } of part) {
      const here = code.length + 1;
      const distance: Readonly<Record<Target, number>> = { on: 0, holds: end - here, fails: total + 1 - here };
      code.push({ code: operation, jt: distance[yes], jf: distance[no], k });
    }
  }
  return [...code, ret(action)];
}

const strictness = ({ action }: Rule): number => (action & ACTION_BITS) | 0;

/** What may become of one call, the strictest first, as the kernel ranks its answers; a rule without comparisons ends the list. */
function ranked(rules: readonly Rule[], defaultAction: number): readonly Rule[] {
  const list: Rule[] = [];
  const always = (rule: Rule): number => (rule.comparisons.length === 0 ? 0 : 1);
  for (const rule of rules.toSorted((a, b) => strictness(a) - strictness(b) || always(a) - always(b))) {
    list.push(rule);
    if (rule.comparisons.length === 0) return list;
  }
  return [...list, { name: "", action: defaultAction, comparisons: [] }];
}

const passes = (action: number): boolean => action === ALLOW || action === LOG;

export interface GivenFilter {
  /** In the kernel's form, little-endian. */
  readonly program: readonly Instruction[];
  /** Calls that are let through, for some arguments at least. */
  readonly calls: number;
  /** How many of them not for all arguments. */
  readonly byArgument: number;
}

/**
 * @throws BulkheadError SPEC_INVALID when it becomes longer than the kernel takes, or refuses execve.
 */
export function compileGiven(profile: GivenProfile, arch: Architecture): GivenFilter {
  const { defaultAction } = profile;
  const byName = Map.groupBy(profile.rules, ({ name }) => name);
  const shared = new Map<string, readonly Instruction[]>();
  const names = new Map([...SYSCALLS[arch]].map(([name, number]) => [number, name] as const));
  let calls = 0;
  let byArgument = 0;
  const outcome = (name: string | undefined): readonly Rule[] => ranked(byName.get(name ?? "") ?? [], defaultAction);
  const list: Interval[] = [];
  for (let number = 0; number <= HIGHEST_ASSIGNED; number += 1) {
    const name = names.get(number);
    const rules = outcome(name);
    const made = rules.flatMap(ruleCode);
    const key = made.map(({ code, jt, jf, k }) => `${code},${jt},${jf},${k}`).join(" ");
    const code = shared.get(key) ?? made;
    shared.set(key, code);
    if (list.at(-1)?.code !== code) list.push({ start: number, code });
    if (name === undefined || !rules.some(({ action }) => passes(action))) continue;
    calls += 1;
    if (!rules.every(({ action }) => passes(action))) byArgument += 1;
  }
  // Calls newer than every profile do not exist, as runc has it: libraries then use the older ones.
  list.push({ start: HIGHEST_ASSIGNED + 1, code: passes(defaultAction) ? [ret(defaultAction)] : [ret(ABSENT)] });
  const program = programOf(arch, list);
  const refuse = (why: string, next: string): BulkheadError =>
    new BulkheadError("SPEC_INVALID", {
      what: `seccomp profile ${JSON.stringify(profile.name)} cannot be used`,
      why,
      next,
      details: { profile: profile.name },
    });
  if (!outcome("execve").some(({ action }) => passes(action))) {
    throw refuse("it refuses execve, so no program could start under it", "let execve through");
  }
  if (program.length > INSTRUCTIONS_MAX) {
    const why = `compiled it has ${program.length} instructions, and the kernel takes ${INSTRUCTIONS_MAX}`;
    throw refuse(why, "give fewer entries with args");
  }
  return { program, calls, byArgument };
}
