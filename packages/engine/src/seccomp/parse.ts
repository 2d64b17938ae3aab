/** A seccomp profile as OCI runtimes (`linux.seccomp`) and Docker read it, made plain for one machine. Strict: what is not known is refused. */
import { constants } from "node:os";
import { BulkheadError, nearest, shownValue } from "@bulkhead/contract";
import { ALLOW, ERRNO, KILL_PROCESS, KILL_THREAD, LOG, TRAP } from "./bpf.ts";
import { ELSEWHERE, SYSCALLS, type Architecture } from "./syscalls.ts";

/** What a Docker profile's conditions are judged by. */
export interface Native {
  readonly arch: Architecture;
  /** Of the kernel that programs inside talk to: `6.1.0-13-amd64`. */
  readonly kernelRelease: string;
  /** As OCI names them. */
  readonly capabilities: readonly string[];
}

export const OPERATIONS = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"] as const;
export type Operation = (typeof OPERATIONS)[number];

/** `argument OP value`, unsigned; MASKED_EQ: `(argument & value) === valueTwo`. */
export interface Comparison {
  readonly index: number;
  readonly op: Operation;
  readonly value: bigint;
  readonly valueTwo: bigint;
}

/** Applies where all comparisons hold. */
export interface Rule {
  readonly name: string;
  /** SECCOMP_RET_*, with the error number. */
  readonly action: number;
  readonly comparisons: readonly Comparison[];
}

export interface GivenProfile {
  readonly name: string;
  readonly defaultAction: number;
  readonly rules: readonly Rule[];
  /** Names that no table here has. */
  readonly unknown: readonly string[];
}

const NAMES_MAX = 4096;
const NAME = /^[a-zA-Z0-9_]{1,64}$/;
const ERRNO_MAX = 4095;
const U64_MAX = 2n ** 64n - 1n;
const ARGUMENTS = 6;
const EPERM = 1;

const ACTIONS: Readonly<Record<string, number>> = {
  SCMP_ACT_KILL: KILL_THREAD,
  SCMP_ACT_KILL_THREAD: KILL_THREAD,
  SCMP_ACT_KILL_PROCESS: KILL_PROCESS,
  SCMP_ACT_TRAP: TRAP,
  SCMP_ACT_ERRNO: ERRNO,
  SCMP_ACT_LOG: LOG,
  SCMP_ACT_ALLOW: ALLOW,
};
/** They hand calls to another program, which there is none of. */
const SUPERVISED = ["SCMP_ACT_TRACE", "SCMP_ACT_NOTIFY"];
const OCI_NAME: Readonly<Record<Architecture, string>> = { x64: "SCMP_ARCH_X86_64", arm64: "SCMP_ARCH_AARCH64" };
const DOCKER_NAME: Readonly<Record<Architecture, string>> = { x64: "amd64", arm64: "arm64" };
/** None of them changes a verdict. */
const FLAGS = [
  "SECCOMP_FILTER_FLAG_TSYNC",
  "SECCOMP_FILTER_FLAG_LOG",
  "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
  "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];
const PROFILE_KEYS = [
  "defaultAction",
  "defaultErrnoRet",
  "defaultErrno",
  "architectures",
  "archMap",
  "flags",
  "syscalls",
];
const ENTRY_KEYS = ["names", "name", "action", "errnoRet", "errno", "args", "comment", "includes", "excludes"];
const ARGUMENT_KEYS = ["index", "value", "valueTwo", "op"];
const CONDITION_KEYS = ["caps", "arches", "minKernel"];

type Fields = Readonly<Record<string, unknown>>;

/** Names the profile and the place in it, shows the value. */
class Refusal {
  readonly #profile: string;

  constructor(profile: string) {
    this.#profile = profile;
  }

  at(where: string, value: unknown, why: string, next: string): BulkheadError {
    const shown = value === undefined ? "nothing" : shownValue(value);
    return new BulkheadError("SPEC_INVALID", {
      what: `seccomp profile ${JSON.stringify(this.#profile)}: ${where} ${shown} is not valid`,
      why,
      next,
      details: { profile: this.#profile, where },
    });
  }

  fields(value: unknown, where: string, known: readonly string[]): Fields {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw this.at(where, value, `${where} is an object`, `write ${where} as OCI and Docker do`);
    }
    for (const key of Object.keys(value)) {
      if (known.includes(key)) continue;
      const guess = nearest(key, known);
      const next = guess === undefined ? `remove ${JSON.stringify(key)}` : `did you mean ${guess}?`;
      throw this.at(`${where}.${key.slice(0, 40)}`, (value as Fields)[key], "there is no such field", next);
    }
    return value as Fields;
  }

  /** Absent and null are the empty list, as Docker writes them. */
  list(value: unknown, where: string): readonly unknown[] {
    if (value === undefined || value === null) return [];
    if (Array.isArray(value) && value.length <= NAMES_MAX) return value;
    throw this.at(where, value, `${where} is a list of at most ${NAMES_MAX}`, `write ${where} as a list`);
  }

  text(value: unknown, where: string): string {
    if (typeof value === "string") return value;
    throw this.at(where, value, `${where} is a text`, `write ${where} in quotes`);
  }

  oneOf<T extends string>(value: unknown, where: string, known: readonly T[]): T {
    const text = this.text(value, where);
    const found = known.find((word) => word === text);
    if (found !== undefined) return found;
    const guess = nearest(text, known);
    const next = guess === undefined ? `use one of ${known.join(", ")}` : `did you mean ${guess}?`;
    throw this.at(where, value, `${where} is one of: ${known.join(", ")}`, next);
  }

  whole(value: unknown, where: string, max: bigint): bigint {
    const number = typeof value === "number" && Number.isSafeInteger(value) ? BigInt(value) : value;
    if (typeof number === "bigint" && number >= 0n && number <= max) return number;
    throw this.at(where, value, `${where} is a whole number from 0 to ${max}`, `change ${where}`);
  }
}

/** Whole numbers beyond what a JavaScript number holds stay exact. */
function readJson(text: string): unknown {
  return JSON.parse(text, (_key, value: unknown, context?: { readonly source?: string }) =>
    typeof value === "number" && !Number.isSafeInteger(value) && /^\d{1,20}$/.test(context?.source ?? "")
      ? BigInt(context?.source ?? "")
      : value,
  );
}

function errnoOf(fields: Fields, number: string, name: string, where: string, refusal: Refusal): number {
  const named = fields[name];
  if (typeof named === "string" && named !== "") {
    const known: Readonly<Record<string, number>> = constants.errno;
    return known[refusal.oneOf(named, `${where}${name}`, Object.keys(known))] ?? EPERM;
  }
  const given = fields[number];
  if (given === undefined || given === null) return EPERM;
  return Number(refusal.whole(given, `${where}${number}`, BigInt(ERRNO_MAX)));
}

function actionOf(value: unknown, where: string, errno: () => number, refusal: Refusal): number {
  const word = refusal.oneOf(value, where, [...Object.keys(ACTIONS), ...SUPERVISED]);
  const action = ACTIONS[word];
  if (action === undefined) {
    throw refusal.at(where, word, "it hands calls to a supervisor, which no sandbox here has", "use SCMP_ACT_ERRNO");
  }
  return action === ERRNO ? (ERRNO | errno()) >>> 0 : action;
}

function comparison(value: unknown, where: string, refusal: Refusal): Comparison {
  const given = refusal.fields(value, where, ARGUMENT_KEYS);
  const op = refusal.oneOf(
    given["op"],
    `${where}.op`,
    OPERATIONS.map((name) => `SCMP_CMP_${name}` as const),
  );
  return {
    index: Number(refusal.whole(given["index"], `${where}.index`, BigInt(ARGUMENTS - 1))),
    op: op.slice("SCMP_CMP_".length) as Operation,
    value: refusal.whole(given["value"] ?? 0, `${where}.value`, U64_MAX),
    valueTwo: refusal.whole(given["valueTwo"] ?? 0, `${where}.valueTwo`, U64_MAX),
  };
}

/** Two comparisons of one argument are alternatives to runc, and then so are all others of the entry. */
function alternatives(comparisons: readonly Comparison[]): readonly (readonly Comparison[])[] {
  const indexes = new Set(comparisons.map(({ index }) => index));
  return indexes.size === comparisons.length ? [comparisons] : comparisons.map((one) => [one]);
}

function version(text: string): readonly [number, number] | null {
  const [, major, minor] = /^(\d{1,5})\.(\d{1,5})(?=\D|$)/.exec(text) ?? [];
  return major === undefined || minor === undefined ? null : [Number(major), Number(minor)];
}

interface Conditions {
  readonly caps: readonly string[];
  readonly arches: readonly string[];
  readonly recent: boolean | null;
}

function conditions(value: unknown, where: string, native: Native, refusal: Refusal): Conditions {
  const given = refusal.fields(value ?? {}, where, CONDITION_KEYS);
  const words = (key: string): string[] =>
    refusal.list(given[key], `${where}.${key}`).map((word) => refusal.text(word, `${where}.${key}`));
  const least = given["minKernel"];
  let recent: boolean | null = null;
  if (least !== undefined && least !== null && least !== "") {
    const wanted = version(refusal.text(least, `${where}.minKernel`));
    if (wanted === null) throw refusal.at(`${where}.minKernel`, least, "it is a version like 4.8", "write MAJOR.MINOR");
    const [major, minor] = version(native.kernelRelease) ?? [0, 0];
    recent = major > wanted[0] || (major === wanted[0] && minor >= wanted[1]);
  }
  return { caps: words("caps"), arches: words("arches"), recent };
}

/** As Docker decides: all that `includes` names must be there, nothing that `excludes` names. */
function applies(entry: Fields, where: string, native: Native, refusal: Refusal): boolean {
  const includes = conditions(entry["includes"], `${where}.includes`, native, refusal);
  const excludes = conditions(entry["excludes"], `${where}.excludes`, native, refusal);
  const here = DOCKER_NAME[native.arch];
  const has = (capability: string): boolean => native.capabilities.includes(capability);
  if (excludes.arches.includes(here) || excludes.caps.some(has) || excludes.recent === true) return false;
  if (includes.arches.length > 0 && !includes.arches.includes(here)) return false;
  return includes.caps.every(has) && includes.recent !== false;
}

interface Entry {
  readonly names: readonly string[];
  readonly rules: readonly Rule[];
  readonly action: number;
}

function entryOf(value: unknown, where: string, native: Native, refusal: Refusal): Entry | null {
  const given = refusal.fields(value, where, ENTRY_KEYS);
  const names = [...refusal.list(given["names"], `${where}.names`), ...[given["name"] ?? []].flat()].map((name) => {
    const text = refusal.text(name, `${where}.names`);
    if (!NAME.test(text)) throw refusal.at(`${where}.names`, text, "a name is letters, digits and _", "correct it");
    return text;
  });
  if (names.length === 0) throw refusal.at(`${where}.names`, names, "an entry names a system call", "remove the entry");
  if (given["comment"] !== undefined && given["comment"] !== null) refusal.text(given["comment"], `${where}.comment`);
  const errno = (): number => errnoOf(given, "errnoRet", "errno", `${where}.`, refusal);
  const action = actionOf(given["action"], `${where}.action`, errno, refusal);
  const comparisons = refusal
    .list(given["args"], `${where}.args`)
    .map((one, index) => comparison(one, `${where}.args[${index}]`, refusal));
  if (!applies(given, where, native, refusal)) return null;
  const rules = names.flatMap((name) => alternatives(comparisons).map((all) => ({ name, action, comparisons: all })));
  return { names, rules, action };
}

/** A profile for other machines alone would be another one here. */
function requireNative(given: Fields, native: Native, refusal: Refusal): void {
  const listed = refusal.list(given["architectures"], "architectures").map((one) => refusal.text(one, "architectures"));
  const mapped = refusal.list(given["archMap"], "archMap").map((one, index) => {
    const where = `archMap[${index}]`;
    const { architecture, subArchitectures } = refusal.fields(one, where, ["architecture", "subArchitectures"]);
    for (const sub of refusal.list(subArchitectures, `${where}.subArchitectures`)) refusal.text(sub, where);
    return refusal.text(architecture, `${where}.architecture`);
  });
  const all = [...listed, ...mapped];
  const here = OCI_NAME[native.arch];
  if (all.length === 0 || all.includes(here)) return;
  throw refusal.at("architectures", all, `this machine is ${here}`, `add ${here}, or give a profile made for it`);
}

const isPermissive = (action: number): boolean => action === ALLOW || action === LOG;

function isKnown(name: string): boolean {
  return SYSCALLS.x64.has(name) || SYSCALLS.arm64.has(name) || ELSEWHERE.has(name);
}

export function guessOf(name: string): string | undefined {
  return nearest(name, [...SYSCALLS.x64.keys()]);
}

/** A call that was to be refused and is misspelt would be let through. */
function requireSpelling(entry: Entry, where: string, permissive: boolean, refusal: Refusal): void {
  if (!permissive || isPermissive(entry.action)) return;
  const misspelt = entry.names.find((name) => !isKnown(name) && guessOf(name) !== undefined);
  if (misspelt === undefined) return;
  const why = "the profile lets through what it does not name, and no kernel has this call";
  throw refusal.at(`${where}.names`, misspelt, why, `did you mean ${guessOf(misspelt)}?`);
}

/**
 * @param text the file's JSON, at most 1 MiB (the spec's bound).
 * @throws BulkheadError SPEC_INVALID naming the profile, the place in it, what is accepted and the next step.
 */
export function parseProfile(name: string, text: string, native: Native): GivenProfile {
  const refusal = new Refusal(name);
  let json: unknown;
  try {
    json = readJson(text);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message.slice(0, 200) : "";
    throw refusal.at("the file", text.slice(0, 40), `it is no JSON: ${why}`, "give linux.seccomp of OCI, or Docker's");
  }
  const given = refusal.fields(json, "profile", PROFILE_KEYS);
  requireNative(given, native, refusal);
  for (const flag of refusal.list(given["flags"], "flags")) refusal.oneOf(flag, "flags", FLAGS);
  const errno = (): number => errnoOf(given, "defaultErrnoRet", "defaultErrno", "", refusal);
  const defaultAction = actionOf(given["defaultAction"], "defaultAction", errno, refusal);
  const rules: Rule[] = [];
  const unknown = new Set<string>();
  let count = 0;
  for (const [index, value] of refusal.list(given["syscalls"], "syscalls").entries()) {
    const where = `syscalls[${index}]`;
    const entry = entryOf(value, where, native, refusal);
    if (entry === null) continue;
    count += entry.rules.length;
    if (count > NAMES_MAX) {
      throw refusal.at(where, count, `a profile has at most ${NAMES_MAX} names`, "leave out what is never called");
    }
    requireSpelling(entry, where, isPermissive(defaultAction), refusal);
    for (const word of entry.names) if (!isKnown(word)) unknown.add(word);
    rules.push(...entry.rules);
  }
  return { name, defaultAction, rules, unknown: [...unknown] };
}
