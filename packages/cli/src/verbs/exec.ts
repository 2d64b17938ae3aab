import { isatty } from "node:tty";
import { findSandbox, type RemoteExecution } from "@bulkhead/engine";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import { parseOptions, usageError } from "../options.ts";
import { OutputClosed } from "../run/output.ts";
import { type Program, TO_THE_GROUP } from "../run/program.ts";
import { PlainReport } from "../run/report.ts";
import { attach } from "../run/session.ts";
import { exitCodeOfSignal, SignalForwarder } from "../run/signals.ts";
import { terminalSize } from "../run/terminal.ts";
import { environmentOf } from "../spec-options.ts";
import { EXEC_OPTIONS } from "./table.ts";

/** What SIGTERM becomes for a program that no image knows. */
const STOP = { signal: "SIGTERM", timeoutMs: 10_000 };

function programOf(execution: RemoteExecution, terminal: boolean): Program {
  return {
    stdout: execution.stdout,
    stderr: terminal ? null : execution.stderr,
    write: (chunk) => execution.write(chunk),
    endInput: () => execution.endInput(),
    signal: (name) => execution.kill(name, { group: TO_THE_GROUP.has(name) }),
    resize: (size) => execution.resize(size),
    ended: execution.ended,
  };
}

export async function exec(words: readonly string[], config: CliConfig): Promise<number> {
  const parsed = parseOptions("exec", EXEC_OPTIONS, words);
  const { values } = parsed;
  if (values.has("help")) return (await import("./help.ts")).printHelp("exec");
  const [name, ...others] = parsed.rest;
  const argv = others[0] === "--" ? others.slice(1) : others;
  if (name === undefined || argv.length === 0) {
    const what = "exec needs a sandbox and a command";
    throw usageError(what, "a name or id, then the program and its arguments", "write bulkhead exec NAME -- COMMAND");
  }
  const [interactive, terminal] = [values.has("interactive"), values.has("tty")];
  if (interactive && terminal && !isatty(0))
    throw usageError("-t cannot be had together with -i here", "standard input is not a terminal", "leave out -t");
  const [[user], [cwd]] = [values.get("user") ?? [], values.get("workdir") ?? []];
  using signals = new SignalForwarder();
  try {
    await using box = await findSandbox(name, engineOptions(config));
    const execution = await box.exec(argv, {
      stdin: interactive,
      signal: signals.starting,
      env: Object.entries(environmentOf(parsed, config.env)).map(([key, value]) => `${key}=${value}`),
      ...(user !== undefined && { user }),
      ...(cwd !== undefined && { cwd }),
      ...(terminal && { pty: terminalSize() }),
    });
    const report = new PlainReport();
    const limitsReached = async (): Promise<[]> => [];
    const program = programOf(execution, terminal);
    return (await attach(program, { interactive, terminal, report, signals, stop: STOP, limitsReached })).code;
  } catch (error) {
    if (error instanceof OutputClosed) return exitCodeOfSignal("SIGPIPE");
    if (signals.starting.aborted && signals.first !== undefined) return exitCodeOfSignal(signals.first);
    throw error;
  }
}
