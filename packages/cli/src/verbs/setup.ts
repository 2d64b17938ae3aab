import type { CliConfig } from "../config.ts";
import { parseOptions, usageError } from "../options.ts";
import { SETUP_OPTIONS } from "./table.ts";

/** What is to be installed cannot depend on what is installed: the launcher does it, and only help comes this far. */
export async function setup(words: readonly string[], _config: CliConfig): Promise<number> {
  const parsed = parseOptions("setup", SETUP_OPTIONS, words);
  if (parsed.values.has("help")) return (await import("./help.ts")).printHelp("setup");
  throw usageError(
    "setup is not done by this program",
    "it is the launcher's, the file bulkhead at the top of the repository",
    "run that file: ./bulkhead setup",
  );
}
