import { Engine } from "@bulkhead/engine";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import { parseOptions } from "../options.ts";
import { print, printJson } from "../print.ts";
import { specFromOptions } from "../spec-options.ts";
import { EXPLAIN_OPTIONS } from "./table.ts";

export async function explain(words: readonly string[], config: CliConfig): Promise<number> {
  const parsed = parseOptions("explain", EXPLAIN_OPTIONS, words);
  if (parsed.values.has("help")) return (await import("./help.ts")).printHelp("explain");
  // A command may stand behind the options, so that `run` can be replaced by `explain` in any line; no plan depends on it.
  const spec = specFromOptions(parsed, config.env);
  await using engine = await Engine.open(engineOptions(config));
  const explanation = await engine.explain(spec);
  if (parsed.values.has("json")) {
    await printJson(explanation);
    return 0;
  }
  const { renderPlan } = await import("../render/plan.ts");
  const { makeStyle } = await import("../render/style.ts");
  const style = makeStyle(process.stdout.isTTY === true && !config.noColor);
  await print(renderPlan(explanation, style));
  return 0;
}
