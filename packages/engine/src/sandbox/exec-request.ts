import { BulkheadError } from "@bulkhead/contract";
import type { Readable } from "node:stream";
import type { Exec, Rlimit } from "../channel/wire.gen.ts";
import { StdinMode } from "../channel/wire.gen.ts";
import { plainBytes, quote, whole } from "./names.ts";

/** Linux's RLIMIT_ numbers on x86-64 and arm64. */
const RESOURCES = {
  cpu: 0,
  fsize: 1,
  data: 2,
  stack: 3,
  core: 4,
  rss: 5,
  nproc: 6,
  nofile: 7,
  memlock: 8,
  as: 9,
  locks: 10,
  sigpending: 11,
  msgqueue: 12,
  nice: 13,
  rtprio: 14,
  rttime: 15,
} as const;
/** RLIM_INFINITY. */
const UNLIMITED = 2n ** 64n - 1n;
const MAX_TERMINAL = 65_535;

export type RlimitName = keyof typeof RESOURCES;
export type RlimitValue = number | bigint | "unlimited";

/** A string runs as `/bin/sh -c <string>`; a list is a program and its arguments, as they are. */
export type Command = string | readonly string[];

export interface TerminalSize {
  readonly rows: number;
  readonly cols: number;
}

export interface ExecOptions {
  /** Added to the sandbox's environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** Default: the user's home, or `/`. */
  readonly cwd?: string;
  /** A name, `uid`, `name:group` or `uid:gid`. Default: the sandbox's user. */
  readonly user?: string;
  /** What the program reads. `true`: what is written to `.stdin`. Default: nothing, it reads as empty. */
  readonly stdin?: string | Uint8Array | Readable | boolean;
  /** After this long the process group is killed and the result rejects with TIMEOUT. */
  readonly timeoutMs?: number;
  /** Kills the process group; the result rejects with ABORTED. */
  readonly signal?: AbortSignal;
  /** One value sets soft and hard. */
  readonly rlimits?: Readonly<
    Partial<Record<RlimitName, RlimitValue | { readonly soft: RlimitValue; readonly hard: RlimitValue }>>
  >;
  /**
   * Of each of stdout and stderr, when they are collected for the result. One byte more kills the process group and rejects
   * with OUTPUT_LIMIT: a cut-off output never passes for a whole one. Default 64 MiB.
   */
  readonly maxOutputBytes?: number;
  /** A terminal of this size instead of pipes; its output is all on stdout. */
  readonly pty?: TerminalSize;
  /** A non-zero exit or a signal rejects with COMMAND_FAILED. */
  readonly check?: boolean;
  /** Notes every system call of the process and its children until it ends; `recorded` of the execution tells them. */
  readonly record?: boolean;
  /** How long a background process that holds stdout or stderr open can delay the result by silence. Default 500. */
  readonly drainGraceMs?: number;
}

export function execBody(command: Command, options: ExecOptions): Exec {
  const argv = typeof command === "string" ? ["/bin/sh", "-c", command] : command;
  if (argv.length === 0 || argv[0] === "") {
    throw new BulkheadError("SPEC_INVALID", { what: "the command is empty", next: "name a program to run" });
  }
  const { pty } = options;
  const pipe = pty !== undefined || (options.stdin !== undefined && options.stdin !== false);
  return {
    argv: argv.map((argument) => plainBytes(argument, "argument")),
    env: environmentBytes(options.env ?? {}),
    cwd: plainBytes(options.cwd ?? "", "working directory"),
    user: options.user ?? "",
    stdin: pipe ? StdinMode.pipe : StdinMode.null,
    pty: pty !== undefined,
    ...terminalSize(pty ?? { rows: 0, cols: 0 }, pty === undefined ? 0 : 1),
    rlimits: rlimitList(options.rlimits ?? {}),
    // A process that has exited may leave others behind on purpose; who wants them dead says so by a signal.
    killOnCancel: false,
    record: options.record === true,
  };
}

export function terminalSize(size: TerminalSize, least = 1): TerminalSize {
  return {
    rows: whole(size.rows, "rows", least, MAX_TERMINAL),
    cols: whole(size.cols, "cols", least, MAX_TERMINAL),
  };
}

/** @returns `NAME=value` for each. */
export function environmentBytes(env: Readonly<Record<string, string>>): Uint8Array[] {
  return Object.entries(env).map(([name, value]) => {
    if (name === "" || name.includes("=")) {
      throw new BulkheadError("SPEC_INVALID", { what: `environment variable ${quote(name)} has no valid name` });
    }
    return plainBytes(`${name}=${value}`, "environment variable");
  });
}

function rlimitList(rlimits: NonNullable<ExecOptions["rlimits"]>): Rlimit[] {
  return Object.entries(rlimits).map(([name, value]) => {
    const resource = new Map<string, number>(Object.entries(RESOURCES)).get(name);
    if (resource === undefined) {
      throw new BulkheadError("SPEC_INVALID", {
        what: `limit ${quote(name)} is unknown`,
        next: `use one of ${Object.keys(RESOURCES).join(", ")}`,
      });
    }
    const both = typeof value === "object" ? value : { soft: value, hard: value };
    return { resource, soft: rlimitValue(name, both.soft), hard: rlimitValue(name, both.hard) };
  });
}

function rlimitValue(name: string, value: RlimitValue): bigint {
  if (value === "unlimited") return UNLIMITED;
  if ((typeof value === "bigint" || Number.isSafeInteger(value)) && value >= 0 && BigInt(value) <= UNLIMITED)
    return BigInt(value);
  throw new BulkheadError("SPEC_INVALID", {
    what: `limit ${name} of ${value} is no limit`,
    next: 'give a whole number, or "unlimited"',
  });
}

/** For messages: `command "make test"`. */
export function describeCommand(command: Command): string {
  return `command ${quote(typeof command === "string" ? command : command.join(" "))}`;
}
