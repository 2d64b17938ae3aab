import { nearest } from "@bulkhead/contract";
import type { CliConfig } from "../config.ts";
import { usageError } from "../options.ts";
import { print } from "../print.ts";
import { helpText, overview } from "../render/help.ts";
import { VERB_HELP } from "./table.ts";

export async function help(words: readonly string[], _config: CliConfig): Promise<number> {
  const name = words.find((word) => !word.startsWith("-"));
  if (name === undefined) {
    await print(overview(VERB_HELP));
    return 0;
  }
  const verb = VERB_HELP.find((one) => one.name === name || one.aliases?.includes(name) === true);
  if (verb === undefined) {
    const names = VERB_HELP.map((one) => one.name);
    const guess = nearest(name, names);
    const next = guess === undefined ? "see bulkhead help" : `did you mean bulkhead help ${guess}?`;
    throw usageError(`no help for ${JSON.stringify(name)}`, `bulkhead's commands are: ${names.join(", ")}`, next);
  }
  await print(helpText(verb));
  return 0;
}

/** For `bulkhead VERB --help`. */
export async function printHelp(name: string): Promise<number> {
  return help([name], { env: {}, noColor: true, debug: false, state: undefined, run: undefined });
}
