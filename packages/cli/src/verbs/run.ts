import { isatty } from "node:tty";
import { Engine, type Sandbox } from "@bulkhead/engine";
import type { Spec } from "@bulkhead/contract";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import { firstUseNotes } from "../progress-notes.ts";
import { parseOptions, usageError, type Parsed } from "../options.ts";
import { asBulkheadError } from "../render/errors.ts";
import { OutputClosed } from "../run/output.ts";
import { programOf } from "../run/program.ts";
import { JsonReport, PlainReport, type Report } from "../run/report.ts";
import { attach } from "../run/session.ts";
import { SignalForwarder, exitCodeOfSignal } from "../run/signals.ts";
import { terminalSize } from "../run/terminal.ts";
import { specFromOptions } from "../spec-options.ts";
import { RUN_OPTIONS } from "./table.ts";

/** A descendant that keeps the program's output open delays our end by this silence at most. */
const DRAIN_GRACE_MS = 50;

interface Job {
  readonly command: readonly string[];
  readonly interactive: boolean;
  readonly terminal: boolean;
  readonly report: Report;
}

function jobOf(parsed: Parsed): Job {
  const interactive = parsed.values.has("interactive");
  const terminal = parsed.values.has("tty");
  if (parsed.rest.length === 0) {
    throw usageError(
      "no command is given",
      "bulkhead run needs to know what to run",
      "write bulkhead run [OPTIONS] -- COMMAND",
    );
  }
  if (interactive && terminal && !isatty(0)) {
    throw usageError("-t cannot be had together with -i here", "standard input is not a terminal", "leave out -t");
  }
  const report = parsed.values.has("json") ? new JsonReport() : new PlainReport();
  return { command: parsed.rest, interactive, terminal, report };
}

async function inside(box: Sandbox, job: Job, signals: SignalForwarder): Promise<number> {
  const { plan } = box;
  await job.report.started({
    id: box.id,
    level: plan.level,
    driver: plan.driver,
    runtime: `${plan.runtime.name} ${plan.runtime.version}`,
    image: plan.image.digest,
  });
  const execution = box.exec(job.command, {
    stdin: job.interactive,
    drainGraceMs: DRAIN_GRACE_MS,
    ...(job.terminal && { pty: terminalSize() }),
  });
  const ended = await attach(programOf(execution, job.terminal), {
    ...job,
    signals,
    limitsReached: () => box.limitsReached(),
  });
  return ended.code;
}

async function sandboxed(spec: Spec, job: Job, config: CliConfig, signals: SignalForwarder): Promise<number> {
  await using engine = await Engine.open(engineOptions(config, signals.starting));
  await using box = await engine.create(spec, { signal: signals.starting, ...firstUseNotes() });
  return await inside(box, job, signals);
}

export async function run(words: readonly string[], config: CliConfig): Promise<number> {
  const parsed = parseOptions("run", RUN_OPTIONS, words);
  if (parsed.values.has("help")) return (await import("./help.ts")).printHelp("run");
  const job = jobOf(parsed);
  using signals = new SignalForwarder();
  try {
    return await sandboxed(specFromOptions(parsed, config.env), job, config, signals);
  } catch (error) {
    if (error instanceof OutputClosed) return exitCodeOfSignal("SIGPIPE");
    if (signals.starting.aborted && signals.first !== undefined) return exitCodeOfSignal(signals.first);
    const known = asBulkheadError(error);
    if (await job.report.failed(known)) return known.exitCode;
    throw error;
  }
}
