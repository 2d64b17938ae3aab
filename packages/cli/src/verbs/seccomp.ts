import { randomBytes } from "node:crypto";
import { renameSync, rmSync, writeFileSync } from "node:fs";
import { isatty } from "node:tty";
import { BulkheadError, nearest } from "@bulkhead/contract";
import { Engine } from "@bulkhead/engine";
import { learnedProfile, type SeenCall } from "@bulkhead/engine/seccomp";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import { parseOptions, usageError, type Parsed } from "../options.ts";
import { print } from "../print.ts";
import { firstUseNotes, pullNotes } from "../progress-notes.ts";
import { pullChoice } from "../pull-options.ts";
import { openOutput, OutputClosed } from "../run/output.ts";
import { programOf } from "../run/program.ts";
import { PlainReport, type Report } from "../run/report.ts";
import { attach } from "../run/session.ts";
import { SignalForwarder, exitCodeOfSignal } from "../run/signals.ts";
import { terminalSize } from "../run/terminal.ts";
import { readProfile, specFromOptions } from "../spec-options.ts";
import { LEARN_OPTIONS } from "./table.ts";

/** As in `run`: a descendant that keeps the output open delays our end by this silence at most. */
const DRAIN_GRACE_MS = 50;
const PROFILE_MODE = 0o644;

/** Leaves standard output to the profile. */
function asideReport(): Report {
  const aside = openOutput(2);
  return new PlainReport({ stdout: aside, stderr: aside });
}

function checked(parsed: Parsed): void {
  if (parsed.rest.length === 0) {
    throw usageError(
      "no command is given",
      "a profile is learned from what a command does",
      "write bulkhead seccomp learn [OPTIONS] -- COMMAND",
    );
  }
  if (parsed.values.has("interactive") && parsed.values.has("tty") && !isatty(0)) {
    throw usageError("-t cannot be had together with -i here", "standard input is not a terminal", "leave out -t");
  }
}

/** Whole or not at all: a half-written profile would pass for a smaller one. */
function write(path: string, text: string): void {
  const draft = `${path}.${randomBytes(6).toString("hex")}`;
  try {
    writeFileSync(draft, text, { mode: PROFILE_MODE, flag: "wx" });
    renameSync(draft, path);
  } catch (cause) {
    rmSync(draft, { force: true });
    throw new BulkheadError("HOST_RESOURCE", {
      what: `the profile cannot be written to ${JSON.stringify(path)}`,
      why: (cause as NodeJS.ErrnoException).code ?? String(cause),
      next: "check the directory, or choose another with -o",
      cause,
    });
  }
}

interface Recorded {
  readonly code: number;
  readonly calls: readonly SeenCall[];
  readonly arch: string;
}

async function record(parsed: Parsed, config: CliConfig, signals: SignalForwarder): Promise<Recorded> {
  const terminal = parsed.values.has("tty");
  const interactive = parsed.values.has("interactive");
  const report: Report = parsed.values.has("output") ? new PlainReport() : asideReport();
  const spec = specFromOptions(parsed, config.env);
  await using engine = await Engine.open(engineOptions(config, signals.starting));
  await using box = await engine.create(spec, {
    signal: signals.starting,
    recording: true,
    ...pullChoice(parsed),
    ...firstUseNotes(),
    ...pullNotes(spec.image),
  });
  const execution = box.run(parsed.rest, {
    stdin: interactive,
    drainGraceMs: DRAIN_GRACE_MS,
    record: true,
    ...(terminal && { pty: terminalSize() }),
  });
  const ended = await attach(programOf(execution, terminal), {
    interactive,
    terminal,
    report,
    signals,
    stop: box.plan.process.stop,
    limitsReached: () => box.limitsReached(),
  });
  return { code: ended.code, calls: await execution.recorded, arch: engine.host.arch };
}

async function learn(words: readonly string[], config: CliConfig): Promise<number> {
  const parsed = parseOptions("seccomp", LEARN_OPTIONS, words);
  if (parsed.values.has("help")) return (await import("./help.ts")).printHelp("seccomp");
  checked(parsed);
  const file = parsed.values.get("merge")?.[0];
  const merged = file === undefined ? undefined : readProfile(file, "--merge");
  using signals = new SignalForwarder();
  try {
    const { code, calls, arch } = await record(parsed, config, signals);
    const profile = learnedProfile(calls, arch === "arm64" ? arch : "x64", merged);
    const text = `${JSON.stringify(profile, null, 2)}\n`;
    const output = parsed.values.get("output")?.[0];
    if (output === undefined) await print(text);
    else write(output, text);
    return code;
  } catch (error) {
    if (error instanceof OutputClosed) return exitCodeOfSignal("SIGPIPE");
    if (signals.starting.aborted && signals.first !== undefined) return exitCodeOfSignal(signals.first);
    throw error;
  }
}

const ACTIONS = ["learn"];

export async function seccomp(words: readonly string[], config: CliConfig): Promise<number> {
  const [action = "", ...rest] = words;
  if (action === "learn") return learn(rest, config);
  if (action === "--help" || action === "-h") return (await import("./help.ts")).printHelp("seccomp");
  const guess = nearest(action, ACTIONS);
  throw usageError(
    action === "" ? "bulkhead seccomp needs to know what to do" : `unknown action ${JSON.stringify(action)}`,
    `bulkhead seccomp's actions are: ${ACTIONS.join(", ")}`,
    guess === undefined ? "see bulkhead help seccomp" : `did you mean bulkhead seccomp ${guess}?`,
  );
}
