import { stateDirectory } from "@bulkhead/engine/host";
import { commitLayer, pullingOf } from "@bulkhead/engine/images";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import { parseOptions, refuseRest, usageError } from "../options.ts";
import { firstUseNotes } from "../progress-notes.ts";
import { print, printJson } from "../print.ts";
import { SignalForwarder, exitCodeOfSignal } from "../run/signals.ts";
import { COMMIT_OPTIONS } from "./table.ts";

/** `commit NAME IMAGE`: an image of a kept layer and the image under it. */
export async function commit(words: readonly string[], config: CliConfig): Promise<number> {
  const parsed = parseOptions("commit", COMMIT_OPTIONS, words);
  if (parsed.values.has("help")) return (await import("./help.ts")).printHelp("commit");
  const [name, image, ...others] = parsed.rest;
  if (name === undefined || image === undefined) {
    throw usageError("commit needs two names", "that of a kept layer, and one for the image", "see bulkhead kept list");
  }
  refuseRest("commit NAME IMAGE", others);
  const directories = { ...engineOptions(config), state: stateDirectory(engineOptions(config)) };
  using signals = new SignalForwarder();
  try {
    const made = await commitLayer(name, image, directories, pullingOf(directories), {
      signal: signals.starting,
      ...firstUseNotes(),
    });
    if (parsed.values.has("json")) await printJson({ reference: made.reference, digest: made.digest });
    else await print(`${made.reference} ${made.digest}`);
    return 0;
  } catch (error) {
    if (signals.first !== undefined) return exitCodeOfSignal(signals.first);
    throw error;
  }
}
