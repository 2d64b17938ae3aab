import type { z } from "zod";
import { BulkheadError } from "./errors.ts";
import { fieldError } from "./invalid.ts";
import type { Level, Trust } from "./level.ts";
import { combineRules } from "./network.ts";
import { SPEC_RULES as R } from "./rules.ts";
import { parseSecrets } from "./secrets.ts";
import type { specSchema } from "./schema.ts";
import { nearest } from "./suggest.ts";
import { formatBytes } from "./units.ts";

/** As given by a caller: defaults may be left out. */
export type SpecInput = z.input<typeof specSchema>;
/** After validation: every default filled in. Sizes in bytes, times in milliseconds. */
export type Spec = z.output<typeof specSchema>;
export type Mount = Spec["mounts"][number];
export type VolumeUse = Spec["volumes"][number];
export type Isolation = NonNullable<Spec["isolation"]>;

const WHOLE_MAX = Number.MAX_SAFE_INTEGER;

type Check<T> = (value: unknown, field: string) => T;

function oneOf<T extends string>(words: readonly T[]): Check<T> {
  return (value, field) => {
    if (typeof value === "string" && (words as readonly string[]).includes(value)) return value as T;
    const guess = typeof value === "string" ? nearest(value, words) : undefined;
    throw fieldError(
      field,
      value,
      `${field} is one of: ${words.join(", ")}`,
      guess === undefined ? `use ${words.join(" or ")}` : `did you mean ${guess}?`,
    );
  };
}

function text(min: number, max: number): Check<string> {
  return (value, field) => {
    if (typeof value === "string" && value.length >= min && value.length <= max) return value;
    throw fieldError(
      field,
      value,
      `${field} is a text of ${min} to ${max} characters`,
      `give a ${field} of that length`,
    );
  };
}

function pattern(regex: RegExp, words: string): Check<string> {
  return (value, field) => {
    if (typeof value === "string" && regex.test(value)) return value;
    throw fieldError(field, value, `${field} must be ${words}`, `change ${field}`);
  };
}

function path(value: unknown, field: string): string {
  if (typeof value === "string" && value.startsWith("/") && value.length <= R.pathMaxChars && R.envValue.test(value)) {
    return value;
  }
  const why = `${field} is an absolute path of at most ${R.pathMaxChars} characters`;
  throw fieldError(field, value, why, `write ${field} with a leading /`);
}

function range(min: number, max: number, whole: boolean, unit: string): Check<number> {
  return (value, field) => {
    const fits = typeof value === "number" && value >= min && value <= max;
    if (fits && (!whole || Number.isSafeInteger(value))) return value;
    const kind = whole ? "a whole number" : "a number";
    const shown = unit === "bytes" ? `${min} (${formatBytes(min)})` : `${min}`;
    const bounds = max === WHOLE_MAX ? `at least ${shown}` : `from ${shown} to ${max}`;
    const why = `${field} is ${kind} of ${unit}, ${bounds}`;
    throw fieldError(field, value, why, `give ${field} ${bounds}, or leave it out for the default`);
  };
}

function flag(value: unknown, field: string): boolean {
  if (typeof value === "boolean") return value;
  throw fieldError(field, value, `${field} is true or false`, `set ${field} to true or false, or leave it out`);
}

function record(value: unknown, field: string): Record<string, unknown> {
  const plain = typeof value === "object" && value !== null && !Array.isArray(value);
  const proto: unknown = plain ? Object.getPrototypeOf(value) : undefined;
  if (plain && (proto === Object.prototype || proto === null)) return value as Record<string, unknown>;
  throw fieldError(field, value, `${field} is an object`, `give ${field} as an object of named fields`);
}

function onlyKeys(given: Record<string, unknown>, known: readonly string[], field: string): void {
  for (const key of Object.keys(given)) {
    if (known.includes(key)) continue;
    const guess = nearest(key, known);
    throw new BulkheadError("SPEC_INVALID", {
      what: `${field} has no field ${JSON.stringify(key)}`,
      why: `its fields are: ${known.join(", ")}`,
      next: guess === undefined ? `remove ${JSON.stringify(key)}` : `did you mean ${guess}?`,
      details: { field: key },
    });
  }
}

const level: Check<Level> = oneOf(R.levels);
const trust: Check<Trust> = oneOf(R.trusts);

function isolation(value: unknown, field: string): Isolation {
  if (typeof value !== "object") return level(value, field);
  const given = record(value, field);
  onlyKeys(given, ["atLeast"], field);
  return { atLeast: level(given["atLeast"], `${field}.atLeast`) };
}

function environment(value: unknown, field: string): Record<string, string> {
  const given = Object.entries(record(value, field));
  if (given.length > R.envMax) {
    throw fieldError(field, given.length, `at most ${R.envMax} variables are carried`, "pass fewer variables");
  }
  const name = pattern(R.envName, "a name without = and without a zero byte");
  const content = pattern(R.envValue, "a text without a zero byte");
  return Object.fromEntries(given.map(([key, item]) => [name(key, field), content(item, `${field}.${key}`)]));
}

function mount(value: unknown, field: string): Mount {
  const given = record(value, field);
  onlyKeys(given, ["source", "target", "readOnly"], field);
  return {
    source: path(given["source"], `${field}.source`),
    target: path(given["target"], `${field}.target`),
    readOnly: given["readOnly"] === undefined ? false : flag(given["readOnly"], `${field}.readOnly`),
  };
}

const volumeName = pattern(R.volumeName, "1 to 63 of a-z, 0-9, . _ and -, beginning with a letter or digit");

function volume(value: unknown, field: string): VolumeUse {
  const given = record(value, field);
  onlyKeys(given, ["name", "target", "readOnly", "shared"], field);
  return {
    name: volumeName(given["name"], `${field}.name`),
    target: path(given["target"], `${field}.target`),
    readOnly: given["readOnly"] === undefined ? false : flag(given["readOnly"], `${field}.readOnly`),
    shared: given["shared"] === undefined ? false : flag(given["shared"], `${field}.shared`),
  };
}

function volumes(value: unknown, field: string): VolumeUse[] {
  if (Array.isArray(value) && value.length <= R.volumesMax)
    return value.map((item, i) => volume(item, `${field}[${i}]`));
  throw fieldError(field, value, `${field} is a list of at most ${R.volumesMax} volumes`, "put more into one volume");
}

/** @throws BulkheadError SPEC_INVALID */
export function parseVolumeName(value: unknown): string {
  return volumeName(value, "volume name");
}

const sandboxName = pattern(R.sandboxName, "1 to 63 of a-z, 0-9, . _ and -, beginning with a letter or digit");

/** @throws BulkheadError SPEC_INVALID, also for what looks like the id of a sandbox */
export function parseSandboxName(value: unknown, field = "name"): string {
  const name = sandboxName(value, field);
  if (!R.sandboxId.test(name)) return name;
  throw fieldError(field, name, "it looks like the id of a sandbox", `change ${field}`);
}

function mounts(value: unknown, field: string): Mount[] {
  if (Array.isArray(value) && value.length <= R.mountsMax) return value.map((item, i) => mount(item, `${field}[${i}]`));
  throw fieldError(
    field,
    value,
    `${field} is a list of at most ${R.mountsMax} mounts`,
    "mount a common parent instead",
  );
}

function ruleList(value: unknown, field: string): readonly unknown[] {
  if (Array.isArray(value) && value.length <= R.networkRulesMax) return value;
  const why = `${field} is a list of at most ${R.networkRulesMax} rules`;
  throw fieldError(field, value, why, "let a wildcard or an address range stand for several");
}

const rate = range(R.networkRateMin, WHOLE_MAX, true, "bytes");
const RATES = ["rateBytesPerSecond", "sendBytesPerSecond", "receiveBytesPerSecond"] as const;

/**
 * Validates what may leave a sandbox.
 * @throws BulkheadError SPEC_INVALID naming the rule, why it cannot be and what can.
 */
export function parseNetwork(value: unknown, field = "network"): Spec["network"] {
  if (value === "none") return "none";
  if (typeof value === "string") {
    const next = `write none, or a list of rules: allow:pypi.org`;
    throw fieldError(field, value, `${field} is none, or says what to allow and deny`, next);
  }
  return parsePolicy(value, field);
}

/** The policy alone, as a running sandbox is given a new one. @throws BulkheadError as `parseNetwork`. */
export function parsePolicy(value: unknown, field = "network"): Exclude<Spec["network"], "none"> {
  const given = record(value, field);
  onlyKeys(given, ["allow", "deny", ...RATES], field);
  const { allow = [], deny = [] } = given;
  const rates = RATES.flatMap((name) =>
    given[name] === undefined ? [] : [[name, rate(given[name], `${field}.${name}`)] as const],
  );
  return {
    ...combineRules(ruleList(allow, `${field}.allow`), ruleList(deny, `${field}.deny`), field),
    ...Object.fromEntries(rates),
  };
}

function seccomp(value: unknown, field: string): NonNullable<Spec["seccomp"]> {
  const given = record(value, field);
  onlyKeys(given, ["name", "json"], field);
  return {
    name: text(1, R.seccompNameMaxChars)(given["name"], `${field}.name`),
    json: text(1, R.seccompMaxChars)(given["json"], `${field}.json`),
  };
}

function argumentList(value: unknown, field: string): string[] {
  if (!Array.isArray(value) || value.length > R.argumentsMax) {
    const why = `${field} is a list of at most ${R.argumentsMax} arguments`;
    throw fieldError(field, value, why, "give the program and its arguments, each a text of its own");
  }
  const plain = pattern(R.envValue, "a text without a zero byte");
  return value.map((item, i) => plain(text(0, R.argumentMaxChars)(item, `${field}[${i}]`), `${field}[${i}]`));
}

const OPTIONAL: { readonly [K in keyof Spec]?: Check<NonNullable<Spec[K]>> } = {
  isolation,
  trust,
  user: text(1, R.userMaxChars),
  workdir: path,
  cpus: range(R.cpusMin, R.cpusMax, false, "CPUs"),
  memoryBytes: range(R.memoryMinBytes, WHOLE_MAX, true, "bytes"),
  pids: range(1, R.pidsMax, true, "processes"),
  diskBytes: range(R.diskMinBytes, WHOLE_MAX, true, "bytes"),
  timeoutMs: range(1, WHOLE_MAX, true, "milliseconds"),
  cpuWeight: range(R.cpuWeightMin, R.cpuWeightMax, true, "parts"),
  diskInodes: range(R.diskInodesMin, R.diskInodesMax, true, "files"),
  diskIops: range(1, WHOLE_MAX, true, "operations a second"),
  diskBytesPerSecond: range(R.diskBytesPerSecondMin, WHOLE_MAX, true, "bytes a second"),
  diskBacking: oneOf(R.diskBackings),
  keep: pattern(R.keepName, "1 to 63 of a-z, 0-9, ., _ and -, starting with a letter or digit"),
  openFiles: range(R.openFilesMin, R.openFilesMax, true, "files"),
  idleTimeoutMs: range(1, WHOLE_MAX, true, "milliseconds"),
  outputMaxBytes: range(1, WHOLE_MAX, true, "bytes"),
  hostname: pattern(R.hostname, "1 to 63 of a-z, 0-9 and -, not starting or ending with -"),
  seccomp,
  entrypoint: argumentList,
  stopSignal: pattern(R.signal, "a signal: SIGTERM, TERM, 15 or SIGRTMIN+3"),
  stopTimeoutMs: range(0, R.stopTimeoutMaxMs, true, "milliseconds"),
  secrets: parseSecrets,
  proxyVariables: flag,
};

const WITH_DEFAULT: { readonly [K in keyof Spec]?: readonly [Check<NonNullable<Spec[K]>>, () => Spec[K]] } = {
  hardware: [flag, () => false],
  image: [text(1, R.imageMaxChars), () => "base"],
  env: [environment, () => ({})],
  mounts: [mounts, () => []],
  volumes: [volumes, () => []],
  network: [parseNetwork, () => "none"],
  allowSetuid: [flag, () => false],
};

const FIELDS = [...Object.keys(OPTIONAL), ...Object.keys(WITH_DEFAULT)];

/**
 * Validates what a caller asked for and fills in the defaults that depend on no machine.
 * @throws BulkheadError SPEC_INVALID naming the field, its value and what is accepted instead.
 */
export function parseSpec(input: unknown): Spec {
  const given = record(input, "spec");
  onlyKeys(given, FIELDS, "spec");
  const spec: Record<string, unknown> = {};
  for (const [key, check] of Object.entries(OPTIONAL)) {
    if (given[key] !== undefined) spec[key] = (check as Check<unknown>)(given[key], key);
  }
  for (const [key, [check, fallback]] of Object.entries(WITH_DEFAULT)) {
    spec[key] = given[key] === undefined ? fallback() : (check as Check<unknown>)(given[key], key);
  }
  return spec as Spec;
}
