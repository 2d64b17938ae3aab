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
import { parseSecretOption } from "./secret-options.ts";
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
  {
    name: "image",
    value: "REFERENCE",
    help: "python:3.12-slim, REGISTRY/NAME:TAG, oci:DIR, …; a name or digest of the store (default: base)",
  },
  { name: "cpus", value: "N", help: "CPU time, in CPUs: 0.5, 2 (default: all)" },
  { name: "memory", short: "m", value: "SIZE", help: "Memory: 512m, 2g (default: 2g or half of the host's)" },
  { name: "pids", value: "N", help: "Processes at once (default: 512)" },
  { name: "disk", value: "SIZE", help: "Writable layer: 512m, 2g (default: 1g)" },
  { name: "cpu-weight", value: "N", help: "Share of busy processors, 1 to 10000; everything else has 100" },
  { name: "inodes", value: "N", help: "Files in the writable layer (default: one for 8k of --disk)" },
  { name: "disk-iops", value: "N", help: "Disk operations a second, for reading and for writing" },
  { name: "disk-bps", value: "SIZE", help: "Disk bytes a second, for reading and for writing: 20m" },
  { name: "disk-backing", value: "file|memory", help: "Where the writable layer is (default: file)" },
  { name: "keep", value: "NAME", help: "Keep the writable layer under a name; the next run with it goes on with it" },
  { name: "open-files", value: "N", help: "Descriptors of one program (default: 32768 or the host's own limit)" },
  { name: "idle-timeout", value: "TIME", help: "End the sandbox after that long without output, input or calls" },
  { name: "output-max", value: "SIZE", help: "Kill the program at this much output, with exit code 123" },
  { name: "timeout", value: "TIME", help: "End the program after 30s, 5m, … with exit code 124" },
  {
    name: "env",
    short: "e",
    value: "KEY[=VALUE]",
    repeat: true,
    help: "Set a variable; without =VALUE taken from the host",
  },
  { name: "env-file", value: "FILE", repeat: true, help: "Read variables from a file, one KEY[=VALUE] a line" },
  { name: "entrypoint", value: "PROGRAM", help: "Run this in place of the image's entrypoint and command" },
  { name: "stop-signal", value: "SIGNAL", help: "What SIGTERM becomes for the program (default: what the image says)" },
  { name: "stop-timeout", value: "TIME", help: "Kill a program that is still there that long after it (default: 10s)" },
  { name: "workdir", short: "w", value: "DIR", help: "Working directory inside" },
  {
    name: "user",
    short: "u",
    value: "USER",
    help: "User inside: a name, uid, name:group or uid:gid (default: the image's)",
  },
  { name: "mount", value: "SRC:DST[:ro]", repeat: true, help: "Mount a host file or directory inside" },
  {
    name: "volume",
    value: "NAME:DST[:ro|:shared]",
    repeat: true,
    help: "Attach a volume: to write alone, to read, or to write beside others who share it too",
  },
  {
    name: "network",
    value: "none|allow:RULES|deny:RULES",
    repeat: true,
    help: "What may leave (default: none): allow:pypi.org,files.pythonhosted.org",
  },
  { name: "net-bps", value: "RATE", help: "Bytes a second over the network, each way: 512k, 5m" },
  { name: "net-send-bps", value: "RATE", help: "Bytes a second that the sandbox sends (default: --net-bps)" },
  { name: "net-receive-bps", value: "RATE", help: "Bytes a second that it is sent (default: --net-bps)" },
  {
    name: "secret",
    value: "HOST:HEADER=env:NAME|file:PATH",
    repeat: true,
    help: "Add a header to requests for https://HOST outside of the sandbox, which never sees it",
  },
  { name: "proxy-env", help: "Tell programs of a proxy too, by HTTP_PROXY and its kin; the same rules hold" },
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
  cpuWeight: "--cpu-weight",
  diskInodes: "--inodes",
  diskIops: "--disk-iops",
  diskBytesPerSecond: "--disk-bps",
  diskBacking: "--disk-backing",
  keep: "--keep",
  openFiles: "--open-files",
  idleTimeoutMs: "--idle-timeout",
  outputMaxBytes: "--output-max",
  env: "--env",
  workdir: "--workdir",
  user: "--user",
  network: "--network",
  "network.rateBytesPerSecond": "--net-bps",
  "network.sendBytesPerSecond": "--net-send-bps",
  "network.receiveBytesPerSecond": "--net-receive-bps",
  secrets: "--secret",
  proxyVariables: "--proxy-env",
  hostname: "--hostname",
  seccomp: "--seccomp",
  "seccomp.name": "--seccomp",
  "seccomp.json": "--seccomp",
  stopSignal: "--stop-signal",
  stopTimeoutMs: "--stop-timeout",
};

const FLAG_OF_PART: readonly (readonly [string, string])[] = [
  ["entrypoint[", "--entrypoint"],
  ["env.", "--env"],
  ["mounts[", "--mount"],
  ["volumes[", "--volume"],
  ["network.allow", "--network allow"],
  ["network.deny", "--network deny"],
  ["secrets[", "--secret"],
];

/** Names the option where the library named its field. */
function inFlags(error: unknown): unknown {
  if (!(error instanceof BulkheadError) || typeof error.details["field"] !== "string") return error;
  const field = error.details["field"];
  const flag = FLAG_OF[field] ?? FLAG_OF_PART.find(([start]) => field.startsWith(start))?.[1];
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

export function environmentOf(parsed: Parsed, host: HostEnv): Record<string, string> {
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

function volume(text: string): { name: string; target: string; readOnly: boolean; shared: boolean } {
  const [name, target, mode, ...more] = text.split(":");
  const known = mode === undefined || ["ro", "rw", "shared"].includes(mode);
  if (name !== undefined && target?.startsWith("/") === true && more.length === 0 && known) {
    return { name, target, readOnly: mode === "ro", shared: mode === "shared" };
  }
  throw usageError(
    `--volume ${JSON.stringify(text)} is not valid`,
    "a volume is NAME:TARGET, NAME:TARGET:ro or NAME:TARGET:shared, with an absolute path inside",
    "write it like --volume cache:/home/user/.cache",
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

function rulesOf(words: readonly string[], way: "allow" | "deny"): string[] {
  return words.filter((word) => word.startsWith(`${way}:`)).flatMap((word) => word.slice(way.length + 1).split(","));
}

type Rates = Readonly<
  Record<"rateBytesPerSecond" | "sendBytesPerSecond" | "receiveBytesPerSecond", number | undefined>
>;

/** @param needing an option that was given and says nothing without a network. */
function network(words: readonly string[], rates: Rates, needing: string | undefined): unknown {
  const odd = words.find((word) => word !== "none" && !/^(allow|deny):/.test(word));
  if (odd !== undefined) {
    throw usageError(
      `--network ${JSON.stringify(odd)} is not valid`,
      "a network is none, allow:RULES or deny:RULES, with commas between rules",
      "write it like --network allow:pypi.org,files.pythonhosted.org",
    );
  }
  const none = words.includes("none");
  if (none && words.length > 1) {
    const why = "none lets nothing leave, and the other option says what may";
    throw usageError("--network none is given together with another --network", why, "keep one of the two");
  }
  if (words.length > 0 && !none) {
    return { allow: rulesOf(words, "allow"), deny: rulesOf(words, "deny"), ...rates };
  }
  const rate = Object.entries(rates).find(([, given]) => given !== undefined)?.[0];
  const option = rate === undefined ? needing : FLAG_OF[`network.${rate}`];
  if (option === undefined) return "none";
  const why = "nothing leaves a sandbox whose network is none";
  throw usageError(`${option} is given without a network`, why, `add --network allow:RULES, or leave out ${option}`);
}

type Read = <T>(name: string, how: (text: string, field: string) => T) => T | undefined;

const ratesOf = (read: Read): Rates => ({
  rateBytesPerSecond: read("net-bps", parseBytes),
  sendBytesPerSecond: read("net-send-bps", parseBytes),
  receiveBytesPerSecond: read("net-receive-bps", parseBytes),
});

/**
 * @returns a validated spec.
 * @throws BulkheadError SPEC_INVALID naming the option, its value and what is accepted.
 */
export function specFromOptions(parsed: Parsed, host: HostEnv): Spec {
  const one = (name: string): string | undefined => parsed.values.get(name)?.[0];
  const read: Read = (name, how) => {
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
    cpuWeight: read("cpu-weight", parseWhole),
    diskInodes: read("inodes", parseWhole),
    diskIops: read("disk-iops", parseWhole),
    diskBytesPerSecond: read("disk-bps", parseBytes),
    diskBacking: one("disk-backing"),
    keep: one("keep"),
    openFiles: read("open-files", parseWhole),
    idleTimeoutMs: read("idle-timeout", parseDuration),
    outputMaxBytes: read("output-max", parseBytes),
    env: environmentOf(parsed, host),
    workdir: one("workdir"),
    user: one("user"),
    mounts: (parsed.values.get("mount") ?? []).map(mount),
    volumes: (parsed.values.get("volume") ?? []).map(volume),
    network: network(
      parsed.values.get("network") ?? [],
      ratesOf(read),
      on("secret") ? "--secret" : on("proxy-env") ? "--proxy-env" : undefined,
    ),
    ...(on("secret") && { secrets: parsed.values.get("secret")!.map((text) => parseSecretOption(text, host)) }),
    ...(on("proxy-env") && { proxyVariables: true }),
    allowSetuid: on("allow-setuid"),
    hostname: one("hostname"),
    seccomp: read("seccomp", readProfile),
    // Empty takes the image's away and puts none in its place.
    entrypoint: read("entrypoint", (program) => (program === "" ? [] : [program])),
    stopSignal: one("stop-signal"),
    stopTimeoutMs: read("stop-timeout", parseDuration),
  };
  try {
    return parseSpec(input);
  } catch (error) {
    throw inFlags(error);
  }
}
