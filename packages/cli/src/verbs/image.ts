import { formatBytes } from "@bulkhead/contract";
import { stateDirectory } from "@bulkhead/engine/host";
import { ImageStore, baseName, buildBase } from "@bulkhead/engine/images";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import { parseOptions, refuseRest, usageError, type Parsed } from "../options.ts";
import { print, printJson } from "../print.ts";
import { columns } from "../render/style.ts";
import { SignalForwarder, exitCodeOfSignal } from "../run/signals.ts";
import { IMAGE_OPTIONS } from "./table.ts";

const SHOWN_DIGEST_CHARS = 19;

function onlyFor(action: string, parsed: Parsed, names: readonly string[]): void {
  for (const name of names) {
    if (!parsed.values.has(name)) continue;
    throw usageError(
      `option --${name} does not belong to image ${action}`,
      "it is for image build-base",
      `leave out --${name}`,
    );
  }
}

async function build(parsed: Parsed, config: CliConfig): Promise<number> {
  const { Progress } = await import("../progress.ts");
  const withNode = parsed.values.has("with-node");
  const stateDir = stateDirectory(engineOptions(config));
  const progress = new Progress(`image ${baseName(withNode)}`, {
    write: (text) => void process.stderr.write(text),
    isTerminal: process.stderr.isTTY === true,
    ...(process.stderr.columns !== undefined && { columns: process.stderr.columns }),
    now: () => performance.now(),
  });
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

async function remove(parsed: Parsed, names: readonly string[], config: CliConfig): Promise<number> {
  if (names.length === 0)
    throw usageError("no image is named", "image remove needs a name or digest", "see bulkhead image list");
  const store = new ImageStore(stateDirectory(engineOptions(config)));
  const removed = [];
  for (const name of names) removed.push({ reference: name, ...(await store.remove(name)) });
  if (parsed.values.has("json")) await printJson(removed);
  else
    await print(
      removed.map((one) => `${one.reference}: ${one.image ? "removed" : "name removed, the image stays"}`).join("\n"),
    );
  return 0;
}

/** `image build-base|list|remove`; options may stand before or after what to do. */
export async function image(words: readonly string[], config: CliConfig): Promise<number> {
  const before = parseOptions("image", IMAGE_OPTIONS, words);
  const [action, ...others] = before.rest;
  const after = parseOptions("image", IMAGE_OPTIONS, others);
  const parsed: Parsed = { values: new Map([...before.values, ...after.values]), rest: after.rest };
  if (parsed.values.has("help")) return (await import("./help.ts")).printHelp("image");
  if (action !== "build-base") onlyFor(String(action), parsed, ["with-node", "force"]);
  if (action === "build-base" || action === "list") refuseRest(`image ${action}`, parsed.rest);
  if (action === "build-base") return build(parsed, config);
  if (action === "list") return list(parsed, config);
  if (action === "remove") return remove(parsed, parsed.rest, config);
  const what = action === undefined ? "nothing to do is given" : `unknown action ${JSON.stringify(action)}`;
  throw usageError(what, "bulkhead image does: build-base, list, remove", "see bulkhead help image");
}
