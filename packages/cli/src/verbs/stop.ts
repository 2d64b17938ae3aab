import { parseDuration } from "@bulkhead/contract";
import { findSandbox } from "@bulkhead/engine";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import { parseAnywhere, usageError } from "../options.ts";
import { print } from "../print.ts";
import { exitCodeOfSignal, SignalForwarder } from "../run/signals.ts";
import { STOP_OPTIONS } from "./table.ts";

export async function stop(words: readonly string[], config: CliConfig): Promise<number> {
  const { values, rest } = parseAnywhere("stop", STOP_OPTIONS, words);
  if (values.has("help")) return (await import("./help.ts")).printHelp("stop");
  if (rest.length === 0) throw usageError("no sandbox is named", "stop needs a name or an id", "see bulkhead list");
  const [given] = values.get("timeout") ?? [];
  const timeout = given === undefined ? {} : { timeoutMs: parseDuration(given, "--timeout") };
  using signals = new SignalForwarder();
  try {
    for (const word of rest) {
      await using box = await findSandbox(word, engineOptions(config));
      await box.stop({ ...timeout, signal: signals.starting });
      await print(`${word}: ended`);
    }
    return 0;
  } catch (error) {
    if (signals.first !== undefined) return exitCodeOfSignal(signals.first);
    throw error;
  }
}
