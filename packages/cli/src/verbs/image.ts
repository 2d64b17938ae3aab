import { formatBytes } from "@bulkhead/contract";
import { stateDirectory } from "@bulkhead/engine/host";
import { ImageStore, baseName, buildBase } from "@bulkhead/engine/images";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import { parseOptions, refuseRest, usageError, type Parsed } from "../options.ts";
import { print, printJson } from "../print.ts";
import { Progress, onStandardError } from "../progress.ts";
import { columns } from "../render/style.ts";
import { SignalForwarder, exitCodeOfSignal } from "../run/signals.ts";
import { IMAGE_OPTIONS } from "./table.ts";

const SHOWN_DIGEST_CHARS = 19;
/** Options that only one action has. */
const BELONGS: Readonly<Record<string, string>> = {
  "with-node": "build-base",
  force: "build-base",
  keep: "gc",
  "insecure-registry": "pull",
};

type Action = (parsed: Parsed, config: CliConfig) => Promise<number>;

const ACTIONS: Readonly<Record<string, Action>> = {
  pull: async (...given) => (await import("./image-pull.ts")).pull(...given),
  list,
  inspect: async (...given) => (await import("./image-care.ts")).inspect(...given),
  prepare: async (...given) => (await import("./image-pull.ts")).prepare(...given),
  verify: async (...given) => (await import("./image-care.ts")).verify(...given),
  remove,
  gc: async (...given) => (await import("./image-care.ts")).gc(...given),
  "build-base": build,
};
const WITHOUT_NAMES = ["list", "gc", "build-base"];

function refuseForeign(action: string, parsed: Parsed): void {
  for (const [name, owner] of Object.entries(BELONGS)) {
    if (owner === action || !parsed.values.has(name)) continue;
    throw usageError(
      `option --${name} does not belong to image ${action}`,
      `it is for image ${owner}`,
      `leave out --${name}`,
    );
  }
}

async function build(parsed: Parsed, config: CliConfig): Promise<number> {
  const withNode = parsed.values.has("with-node");
  const stateDir = stateDirectory(engineOptions(config));
  const progress = new Progress(`image ${baseName(withNode)}`, onStandardError());
  using signals = new SignalForwarder();
  try {
    const image = await buildBase({
      stateDir,
      withNode,
      force: parsed.values.has("force"),
      signal: signals.starting,
      onProgress: (event) => progress.update(event),
    });
    progress.finish(image.built ? "built" : "is already there");
    if (parsed.values.has("json"))
      await printJson({ reference: image.reference, digest: image.digest, built: image.built });
    else await print(`${image.reference} ${image.digest}`);
    return 0;
  } catch (error) {
    progress.stop();
    if (signals.first !== undefined) return exitCodeOfSignal(signals.first);
    throw error;
  }
}

async function list(parsed: Parsed, config: CliConfig): Promise<number> {
  const images = new ImageStore(stateDirectory(engineOptions(config))).list();
  if (parsed.values.has("json")) {
    await printJson(images.map(({ digest, names, users, config: about }) => ({ digest, names, users, config: about })));
    return 0;
  }
  const rows = images.map((image) => [
    image.names.join(", ") || "-",
    image.digest.slice(0, SHOWN_DIGEST_CHARS),
    image.config === null ? "damaged" : formatBytes(image.config.sizeBytes),
    `${image.users.length}`,
    image.config?.description ?? "its record cannot be read; remove it and build it again",
  ]);
  await print(columns([["NAME", "DIGEST", "SIZE", "IN USE", "ABOUT"], ...rows]));
  return 0;
}

async function remove(parsed: Parsed, config: CliConfig): Promise<number> {
  const store = new ImageStore(stateDirectory(engineOptions(config)));
  const removed = [];
  for (const name of namesIn("remove", parsed)) removed.push({ reference: name, ...(await store.remove(name)) });
  if (parsed.values.has("json")) await printJson(removed);
  else
    await print(
      removed.map((one) => `${one.reference}: ${one.image ? "removed" : "name removed, the image stays"}`).join("\n"),
    );
  return 0;
}

/** At least one. @throws BulkheadError SPEC_INVALID */
export function namesIn(action: string, parsed: Parsed): readonly string[] {
  if (parsed.rest.length > 0) return parsed.rest;
  throw usageError("no image is named", `image ${action} needs a name or digest`, "see bulkhead image list");
}

/** `image pull|list|inspect|…`; options may stand before or after what to do. */
export async function image(words: readonly string[], config: CliConfig): Promise<number> {
  const before = parseOptions("image", IMAGE_OPTIONS, words);
  const [action, ...others] = before.rest;
  const after = parseOptions("image", IMAGE_OPTIONS, others);
  const parsed: Parsed = { values: new Map([...before.values, ...after.values]), rest: after.rest };
  if (parsed.values.has("help")) return (await import("./help.ts")).printHelp("image");
  const act = action !== undefined && Object.hasOwn(ACTIONS, action) ? ACTIONS[action] : undefined;
  if (action === undefined || act === undefined) {
    const what = action === undefined ? "nothing to do is given" : `unknown action ${JSON.stringify(action)}`;
    throw usageError(what, `bulkhead image does: ${Object.keys(ACTIONS).join(", ")}`, "see bulkhead help image");
  }
  refuseForeign(action, parsed);
  if (WITHOUT_NAMES.includes(action)) refuseRest(`image ${action}`, parsed.rest);
  return act(parsed, config);
}
