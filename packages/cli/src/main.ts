import { BulkheadError, nearest } from "@bulkhead/contract";
import { readConfig, type CliConfig } from "./config.ts";

/** A verb returns the exit code. Each is loaded only when asked for: loading is most of what a short command costs. */
export type Verb = (words: readonly string[], config: CliConfig) => Promise<number>;

const VERBS: Readonly<Record<string, () => Promise<Verb>>> = {
  run: async () => (await import("./verbs/run.ts")).run,
  doctor: async () => (await import("./verbs/doctor.ts")).doctor,
  explain: async () => (await import("./verbs/explain.ts")).explain,
  list: async () => (await import("./verbs/list.ts")).list,
  cp: async () => (await import("./verbs/cp.ts")).cp,
  exec: async () => (await import("./verbs/exec.ts")).exec,
  stop: async () => (await import("./verbs/stop.ts")).stop,
  image: async () => (await import("./verbs/image.ts")).image,
  volume: async () => (await import("./verbs/volume.ts")).volume,
  commit: async () => (await import("./verbs/commit.ts")).commit,
  kept: async () => (await import("./verbs/kept.ts")).kept,
  seccomp: async () => (await import("./verbs/seccomp.ts")).seccomp,
  setup: async () => (await import("./verbs/setup.ts")).setup,
  version: async () => (await import("./verbs/version.ts")).version,
  help: async () => (await import("./verbs/help.ts")).help,
};

const ALIASES: Readonly<Record<string, string>> = {
  "--help": "help",
  "-h": "help",
  "--version": "version",
  "-V": "version",
  ls: "list",
  ps: "list",
};

function unknownVerb(word: string): BulkheadError {
  const guess = nearest(word, Object.keys(VERBS));
  return new BulkheadError("SPEC_INVALID", {
    what: `unknown command ${JSON.stringify(word)}`,
    why: `bulkhead's commands are: ${Object.keys(VERBS).join(", ")}`,
    next: guess === undefined ? "see bulkhead help" : `did you mean bulkhead ${guess}?`,
  });
}

async function dispatch(words: readonly string[], config: CliConfig): Promise<number> {
  const [first = "help", ...rest] = words;
  const name = ALIASES[first] ?? first;
  const load = Object.hasOwn(VERBS, name) ? VERBS[name] : undefined;
  if (load === undefined) throw unknownVerb(first);
  const verb = await load();
  return verb(rest, config);
}

async function fail(error: unknown, config: CliConfig): Promise<number> {
  const { asBulkheadError, renderError } = await import("./render/errors.ts");
  const { makeStyle } = await import("./render/style.ts");
  const { writeSync } = await import("node:fs");
  const known = asBulkheadError(error);
  const style = makeStyle(process.stderr.isTTY === true && !config.noColor);
  try {
    writeSync(2, renderError(known, style, config.debug));
  } catch {
    // Nobody can read it; the exit code still says what happened.
  }
  return known.exitCode;
}

const config = readConfig();
process.exit(await dispatch(process.argv.slice(2), config).catch((error: unknown) => fail(error, config)));
