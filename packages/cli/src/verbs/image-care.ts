import { formatBytes, parseBytes } from "@bulkhead/contract";
import { ImageStore, collectGarbage, pullingOf, verifyImages } from "@bulkhead/engine/images";
import { stateDirectory } from "@bulkhead/engine/host";
import { ERRORS } from "@bulkhead/contract";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import type { Parsed } from "../options.ts";
import { print, printJson } from "../print.ts";
import { Progress, onStandardError } from "../progress.ts";
import { namesIn } from "./image.ts";

/** Everything the store knows of images, as JSON: there is no other form that would hold it. */
export async function inspect(parsed: Parsed, config: CliConfig): Promise<number> {
  const store = new ImageStore(stateDirectory(engineOptions(config)));
  const digests = namesIn("inspect", parsed).map((name) => store.digestOf(name));
  const all = store.list();
  await printJson(
    digests.flatMap((digest) => {
      const found = all.find((image) => image.digest === digest);
      if (found === undefined) return [];
      const { names, users, usedMs, rootfs, config: about } = found;
      return [{ digest, names, users, used: new Date(usedMs).toISOString(), rootfs, config: about }];
    }),
  );
  return 0;
}

/** @returns 0 when all is as it was, else the exit code of a damaged image */
export async function verify(parsed: Parsed, config: CliConfig): Promise<number> {
  const progress = new Progress("image verify", onStandardError());
  const verdicts = await verifyImages(parsed.rest, pullingOf(engineOptions(config)), {
    onImage: (name) => progress.update({ label: name, done: 0, total: 0 }),
  });
  progress.stop();
  const isWhole = verdicts.every(({ problems }) => problems.length === 0);
  if (parsed.values.has("json")) await printJson(verdicts);
  else {
    const lines = verdicts.flatMap(({ digest, names, problems }) => {
      const name = names[0] ?? digest;
      return problems.length === 0 ? [`${name}: whole`] : problems.map((problem) => `${name}: DAMAGED: ${problem}`);
    });
    const next = "bulkhead: next: remove what is damaged with bulkhead image remove, and pull or build it again";
    await print([...lines, ...(isWhole ? [] : [next])].join("\n"));
  }
  return isWhole ? 0 : ERRORS.IMAGE_INVALID.exit;
}

export async function gc(parsed: Parsed, config: CliConfig): Promise<number> {
  const keep = parsed.values.get("keep")?.[0];
  const keepBytes = keep === undefined ? undefined : parseBytes(keep, "--keep");
  const progress = new Progress("image gc", onStandardError());
  const store = new ImageStore(stateDirectory(engineOptions(config)));
  const report = await collectGarbage(store, {
    ...(keepBytes !== undefined && { keepBytes }),
    onWait: () => progress.update({ label: "waiting for pulls to end", done: 0, total: 0 }),
  });
  progress.stop();
  if (parsed.values.has("json")) {
    await printJson(report);
    return 0;
  }
  const { images, layers, blobs, beforeBytes, afterBytes } = report;
  const removed = images.map((name) => `removed ${name}`);
  const rest = `removed ${layers} unpacked layers and ${blobs} files as they came that no image is made of`;
  const sizes = `${formatBytes(beforeBytes)} before, ${formatBytes(afterBytes)} now`;
  const isAbove = keepBytes !== undefined && afterBytes > keepBytes && store.list().length > 0;
  const left = "what is left is in use, lies under a kept layer, or was built, committed or copied here";
  await print([...removed, rest, isAbove ? `${sizes}, above --keep: ${left}` : sizes].join("\n"));
  return 0;
}
