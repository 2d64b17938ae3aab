import { readFileSync } from "node:fs";
import { locateRuntimes } from "@bulkhead/engine/host";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import { parseOptions, refuseRest } from "../options.ts";
import { print, printJson } from "../print.ts";
import { columns } from "../render/style.ts";
import { VERSION_OPTIONS } from "./table.ts";

function ownVersion(): string {
  const text = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

export async function version(words: readonly string[], config: CliConfig): Promise<number> {
  const parsed = parseOptions("version", VERSION_OPTIONS, words);
  if (parsed.values.has("help")) return (await import("./help.ts")).printHelp("version");
  refuseRest("version", parsed.rest);
  const runtimes = await locateRuntimes(engineOptions(config));
  const facts = { bulkhead: ownVersion(), node: process.versions.node, runtimes };
  if (parsed.values.has("json")) {
    await printJson(facts);
    return 0;
  }
  const rows = [
    ["bulkhead", facts.bulkhead],
    ["node", facts.node],
    ...Object.entries(runtimes).map(([name, found]) => [
      name,
      found === null ? "not found" : `${found.version} (${found.path})`,
    ]),
  ];
  await print(columns(rows));
  return 0;
}
