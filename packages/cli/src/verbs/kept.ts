import { formatBytes } from "@bulkhead/contract";
import { stateDirectory } from "@bulkhead/engine/host";
import { KeptLayers } from "@bulkhead/engine/images";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import { parseOptions, refuseRest, usageError } from "../options.ts";
import { print, printJson } from "../print.ts";
import { columns } from "../render/style.ts";
import { KEPT_OPTIONS } from "./table.ts";

const LEVELS = { host: "container, gvisor", guest: "microvm" } as const;

async function list(store: KeptLayers, json: boolean): Promise<number> {
  const layers = await store.list();
  if (json) {
    await printJson(layers);
    return 0;
  }
  const rows = layers.map(({ name, reference, writer, usedBytes, bytes }) => {
    return [name, reference, LEVELS[writer], formatBytes(usedBytes), formatBytes(bytes)];
  });
  await print(columns([["NAME", "IMAGE", "LEVELS", "ON DISK", "AT MOST"], ...rows]));
  return 0;
}

async function remove(store: KeptLayers, names: readonly string[], json: boolean): Promise<number> {
  if (names.length === 0) {
    throw usageError("no layer is named", "kept remove needs a name", "see bulkhead kept list");
  }
  for (const name of names) await store.remove(name);
  if (json) await printJson(names.map((name) => ({ name, removed: true })));
  else await print(names.map((name) => `${name}: removed`).join("\n"));
  return 0;
}

/** `kept list|remove`; options may stand before or after what to do. */
export async function kept(words: readonly string[], config: CliConfig): Promise<number> {
  const before = parseOptions("kept", KEPT_OPTIONS, words);
  const [action, ...others] = before.rest;
  const after = parseOptions("kept", KEPT_OPTIONS, others);
  const given = new Map([...before.values, ...after.values]);
  if (given.has("help")) return (await import("./help.ts")).printHelp("kept");
  const store = new KeptLayers(stateDirectory(engineOptions(config)));
  if (action === "list") {
    refuseRest("kept list", after.rest);
    return list(store, given.has("json"));
  }
  if (action === "remove") return remove(store, after.rest, given.has("json"));
  const what = action === undefined ? "nothing to do is given" : `unknown action ${JSON.stringify(action)}`;
  throw usageError(what, "bulkhead kept does: list, remove", "see bulkhead help kept");
}
