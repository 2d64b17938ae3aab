import { readFileSync, statSync } from "node:fs";
import { basename } from "node:path";
import {
  BulkheadError,
  parseBytes,
  parseCpus,
  parseDuration,
  parseSpec,
  parseWhole,
  SPEC_RULES,
  type Spec,
} from "@bulkhead/contract";
import { HELP, usageError, type OptionDef, type Parsed } from "./options.ts";

/** The options that make a spec, shared by `run` and `explain`. */
export const SPEC_OPTIONS: readonly OptionDef[] = [
  { name: "isolation", value: "LEVEL", help: "Exactly this boundary, or refuse: container, gvisor, microvm" },
  { name: "at-least", value: "LEVEL", help: "The fastest boundary that is at least this strong" },
  {
    name: "trust",
    value: "TRUST",
    help: "What the code is: trusted, untrusted, multi-tenant, regulated (sets a floor)",
  },
  { name: "hardware", help: "Refuse any boundary not drawn by the CPU's virtualisation" },
  { name: "image", value: "NAME", help: "Image from the store (default: base)" },
  { name: "cpus", value: "N", help: "CPU time, in CPUs: 0.5, 2 (default: all)" },
  { name: "memory", short: "m", value: "SIZE", help: "Memory: 512m, 2g (default: 2g or half of the host's)" },
  { name: "pids", value: "N", help: "Processes at once (default: 512)" },
  { name: "disk", value: "SIZE", help: "Writable layer: 512m, 2g (default: 1g)" },
  { name: "timeout", value: "TIME", help: "End the program after 30s, 5m, … with exit code 124" },
  {
    name: "env",
    short: "e",
    value: "KEY[=VALUE]",
    repeat: true,
    help: "Set a variable; without =VALUE taken from the host",
  },
  { name: "env-file", value: "FILE", repeat: true, help: "Read variables from a file, one KEY[=VALUE] a line" },
  { name: "workdir", short: "w", value: "DIR", help: "Working directory inside" },
  {
    name: "user",
    short: "u",
    value: "USER",
    help: "User inside: a name, uid, name:group or uid:gid (default: the image's)",
  },
  { name: "mount", value: "SRC:DST[:ro]", repeat: true, help: "Mount a host file or directory inside" },
  { name: "network", value: "MODE", help: "none: no way out of the sandbox (the default, and all there is)" },
  { name: "allow-setuid", help: "Let sudo and other set-user-id programs raise privileges inside" },
  {
    name: "seccomp",
    value: "FILE",
    help: "Narrow the system calls by an OCI or Docker seccomp profile, at every level",
  },
  { name: "hostname", value: "NAME", help: "Host name inside (default: bulkhead)" },
  HELP,
];

/** Fields as the library calls them, to what the person typed. */
const FLAG_OF: Readonly<Record<string, string>> = {
  "isolation.atLeast": "--at-least",
  isolation: "--isolation",
  trust: "--trust",
  hardware: "--hardware",
  image: "--image",
  cpus: "--cpus",
  memoryBytes: "--memory",
  pids: "--pids",
  diskBytes: "--disk",
  timeoutMs: "--timeout",
  env: "--env",
  workdir: "--workdir",
  user: "--user",
  network: "--network",
  hostname: "--hostname",
  seccomp: "--seccomp",
  "seccomp.name": "--seccomp",
  "seccomp.json": "--seccomp",
};

/** Names the option where the library named its field. */
function inFlags(error: unknown): unknown {
  if (!(error instanceof BulkheadError) || typeof error.details["field"] !== "string") return error;
  const field = error.details["field"];
  const flag =
    FLAG_OF[field] ?? (field.startsWith("env.") ? "--env" : field.startsWith("mounts[") ? "--mount" : undefined);
  if (flag === undefined) return error;
  const renamed = (line: string): string => line.replaceAll(field, flag);
  return new BulkheadError(error.code, {
    what: renamed(error.message),
    why: renamed(error.why),
    next: renamed(error.next),
    details: { ...error.details, option: flag },
  });
}

type HostEnv = Readonly<Record<string, string | undefined>>;

/** `KEY` alone is taken from the host and left out when the host has none, as `docker run` does. */
function assign(env: Record<string, string>, entry: string, host: HostEnv): void {
  const equals = entry.indexOf("=");
  const key = equals === -1 ? entry : entry.slice(0, equals);
  if (key === "") {
    throw usageError(
      `--env ${JSON.stringify(entry)} has no name`,
      "a variable is KEY=VALUE or KEY",
      "write --env KEY=VALUE",
    );
  }
  const value = equals === -1 ? host[key] : entry.slice(equals + 1);
  if (value !== undefined) env[key] = value;
}

function readEnvFile(path: string): string[] {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "unreadable";
    throw usageError(`--env-file ${JSON.stringify(path)} cannot be read`, code, "check the path and its mode");
  }
  return text.split(/\r?\n/).filter((line) => line.trim() !== "" && !line.startsWith("#"));
}

/** As the spec has it. Never more of the file than a profile may have. */
export function readProfile(path: string, option: string): { readonly name: string; readonly json: string } {
  const refuse = (what: string, why: string, next: string): never => {
    throw usageError(`${option} ${JSON.stringify(path)} ${what}`, why, next);
  };
  try {
    const file = statSync(path);
    if (!file.isFile()) refuse("is no file", "a profile is a JSON file", "name the file");
    if (file.size > SPEC_RULES.seccompMaxChars) {
      refuse(`has ${file.size} bytes`, `a profile has ${SPEC_RULES.seccompMaxChars} at most`, "leave out comments");
    }
    return { name: basename(path), json: readFileSync(path, "utf8") };
  } catch (error) {
    if (error instanceof BulkheadError) throw error;
    const code = (error as NodeJS.ErrnoException).code ?? "unreadable";
    return refuse("cannot be read", code, "check the path and its mode");
  }
}

function environment(parsed: Parsed, host: HostEnv): Record<string, string> {
  const env: Record<string, string> = {};
  for (const file of parsed.values.get("env-file") ?? []) {
    for (const line of readEnvFile(file)) assign(env, line, host);
  }
  for (const entry of parsed.values.get("env") ?? []) assign(env, entry, host);
  return env;
}

function mount(text: string): { source: string; target: string; readOnly: boolean } {
  const [source, target, mode, ...more] = text.split(":");
  const fits = source !== undefined && target !== undefined && more.length === 0;
  if (
    fits &&
    source.startsWith("/") &&
    target.startsWith("/") &&
    (mode === undefined || mode === "ro" || mode === "rw")
  ) {
    return { source, target, readOnly: mode === "ro" };
  }
  throw usageError(
    `--mount ${JSON.stringify(text)} is not valid`,
    "a mount is SOURCE:TARGET or SOURCE:TARGET:ro, both absolute paths",
    "write it like --mount /srv/data:/data:ro",
  );
}

function isolation(one: (name: string) => string | undefined): unknown {
  const exact = one("isolation");
  const atLeast = one("at-least");
  if (exact !== undefined && atLeast !== undefined) {
    throw usageError(
      `--isolation ${exact} and --at-least ${atLeast} contradict each other`,
      "--isolation is exactly one level, --at-least is a floor",
      "keep one of the two",
    );
  }
  return exact ?? (atLeast === undefined ? undefined : { atLeast });
}

/**
 * @returns a validated spec.
 * @throws BulkheadError SPEC_INVALID naming the option, its value and what is accepted.
 */
export function specFromOptions(parsed: Parsed, host: HostEnv): Spec {
  const one = (name: string): string | undefined => parsed.values.get(name)?.[0];
  const read = <T>(name: string, how: (text: string, field: string) => T): T | undefined => {
    const text = one(name);
    return text === undefined ? undefined : how(text, `--${name}`);
  };
  const on = (name: string): boolean => parsed.values.has(name);
  const input = {
    isolation: isolation(one),
    trust: one("trust"),
    hardware: on("hardware"),
    image: one("image"),
    cpus: read("cpus", parseCpus),
    memoryBytes: read("memory", parseBytes),
    pids: read("pids", parseWhole),
    diskBytes: read("disk", parseBytes),
    timeoutMs: read("timeout", parseDuration),
    env: environment(parsed, host),
    workdir: one("workdir"),
    user: one("user"),
    mounts: (parsed.values.get("mount") ?? []).map(mount),
    network: one("network"),
    allowSetuid: on("allow-setuid"),
    hostname: one("hostname"),
    seccomp: read("seccomp", readProfile),
  };
  try {
    return parseSpec(input);
  } catch (error) {
    throw inFlags(error);
  }
}
