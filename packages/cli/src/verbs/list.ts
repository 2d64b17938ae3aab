import { writeSync } from "node:fs";
import { listSandboxes } from "@bulkhead/engine";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import { parseOptions, refuseRest } from "../options.ts";
import { print, printJson } from "../print.ts";
import { formatDuration } from "../progress.ts";
import { columns, printable } from "../render/style.ts";
import { LIST_OPTIONS } from "./table.ts";

export async function list(words: readonly string[], config: CliConfig): Promise<number> {
  const parsed = parseOptions("list", LIST_OPTIONS, words);
  if (parsed.values.has("help")) return (await import("./help.ts")).printHelp("list");
  refuseRest("list", parsed.rest);
  const { sandboxes, silent } = await listSandboxes(engineOptions(config));
  for (const engine of silent)
    writeSync(2, `bulkhead: engine ${engine} does not answer; its sandboxes are not listed\n`);
  if (parsed.values.has("json")) {
    await printJson(sandboxes);
    return 0;
  }
  const now = Date.now();
  const rows = sandboxes.map(({ id, name, level, image, createdMs, paused }) => {
    const age = formatDuration(Math.max(0, now - createdMs));
    return [id, name ?? "-", level, printable(image), paused ? "paused" : "running", age];
  });
  await print(columns([["ID", "NAME", "LEVEL", "IMAGE", "STATE", "AGE"], ...rows]));
  return 0;
}
