import { writeSync } from "node:fs";
import { isatty } from "node:tty";
import { Engine, type CreateOptions, type PublishedPort, type Sandbox } from "@bulkhead/engine";
import { parseSandboxName, type Spec } from "@bulkhead/contract";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import { firstUseNotes, pullNotes } from "../progress-notes.ts";
import { pullChoice } from "../pull-options.ts";
import { parseOptions, usageError, type Parsed } from "../options.ts";
import { asBulkheadError } from "../render/errors.ts";
import { OutputClosed } from "../run/output.ts";
import { programOf } from "../run/program.ts";
import { exposedPorts, parsePublish, type Publish } from "../run/publish.ts";
import { JsonReport, PlainReport, type Report } from "../run/report.ts";
import { attach } from "../run/session.ts";
import { SignalForwarder, exitCodeOfSignal } from "../run/signals.ts";
import { terminalSize } from "../run/terminal.ts";
import { specFromOptions } from "../spec-options.ts";
import { RUN_OPTIONS } from "./table.ts";

/** A descendant that keeps the program's output open delays our end by this silence at most. */
const DRAIN_GRACE_MS = 50;

interface Job {
  /** None: the image's own command. */
  readonly args: readonly string[];
  readonly interactive: boolean;
  readonly terminal: boolean;
  readonly json: boolean;
  readonly report: Report;
  readonly publish: readonly Publish[];
  /** Also what the image says it listens on. */
  readonly publishAll: boolean;
  readonly pull: Pick<CreateOptions, "pull" | "insecureRegistries">;
  /** None: its id alone finds it. */
  readonly name: string | undefined;
}

function jobOf(parsed: Parsed): Job {
  const interactive = parsed.values.has("interactive");
  const terminal = parsed.values.has("tty");
  if (interactive && terminal && !isatty(0)) {
    throw usageError("-t cannot be had together with -i here", "standard input is not a terminal", "leave out -t");
  }
  const json = parsed.values.has("json");
  const report = json ? new JsonReport() : new PlainReport();
  const publish = (parsed.values.get("publish") ?? []).map(parsePublish);
  const publishAll = parsed.values.has("publish-all");
  const [given] = parsed.values.get("name") ?? [];
  const name = given === undefined ? undefined : parseSandboxName(given, "--name");
  return {
    args: parsed.rest,
    interactive,
    terminal,
    json,
    report,
    publish,
    publishAll,
    pull: pullChoice(parsed),
    name,
  };
}

async function inside(box: Sandbox, job: Job, signals: SignalForwarder): Promise<number> {
  const { plan } = box;
  const publish = job.publishAll ? [...job.publish, ...exposedPorts(plan.image.exposedPorts)] : job.publish;
  const ports = await Promise.all(publish.map(({ port, options }) => box.publish(port, options)));
  await job.report.started({
    id: box.id,
    ...(box.name !== null && { name: box.name }),
    level: plan.level,
    driver: plan.driver,
    runtime: `${plan.runtime.name} ${plan.runtime.version}`,
    image: plan.image.digest,
    ...(ports.length > 0 && { published: ports.map(({ url }, i) => ({ port: publish[i]!.port, url })) }),
  });
  if (!job.json) showPorts(publish, ports);
  // A report that cannot be written ends the run where the program's output is written.
  using _ = box.network.onDenial((denial) => void job.report.denied(denial).catch(() => undefined));
  const execution = box.run(job.args, {
    stdin: job.interactive,
    drainGraceMs: DRAIN_GRACE_MS,
    ...(job.terminal && { pty: terminalSize() }),
  });
  const ended = await attach(programOf(execution, job.terminal), {
    ...job,
    signals,
    stop: plan.process.stop,
    limitsReached: () => box.limitsReached(),
  });
  return ended.code;
}

/** One that was left to us to choose has to be told; the others are as they were asked for. */
function showPorts(asked: readonly Publish[], ports: readonly PublishedPort[]): void {
  for (const [i, { port, options }] of asked.entries()) {
    if (options.hostPort === 0) writeSync(2, `bulkhead: port ${port} is at ${ports[i]!.url}\n`);
  }
}

/** Short, on standard error, after the program's own output. */
async function showDenials(box: Sandbox, config: CliConfig): Promise<void> {
  const denials = box.network.denials();
  if (denials.length === 0) return;
  const [{ renderDenials }, { makeStyle }] = await Promise.all([
    import("../render/denials.ts"),
    import("../render/style.ts"),
  ]);
  try {
    writeSync(2, renderDenials(denials, makeStyle(process.stderr.isTTY === true && !config.noColor)));
  } catch {
    // Nobody can read it.
  }
}

async function sandboxed(spec: Spec, job: Job, config: CliConfig, signals: SignalForwarder): Promise<number> {
  await using engine = await Engine.open(engineOptions(config, signals.starting));
  await using box = await engine.create(spec, {
    signal: signals.starting,
    runnable: job.args.length === 0,
    ...job.pull,
    ...(job.name !== undefined && { name: job.name }),
    ...firstUseNotes(),
    ...pullNotes(spec.image),
  });
  const code = await inside(box, job, signals);
  if (!job.json) await showDenials(box, config);
  return code;
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
