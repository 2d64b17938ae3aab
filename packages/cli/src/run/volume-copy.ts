import { posix, resolve } from "node:path";
import { type Copied, Engine, VolumeStore } from "@bulkhead/engine";
import { stateDirectory } from "@bulkhead/engine/host";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import { usageError } from "../options.ts";
import { firstUseNotes } from "../progress-notes.ts";

/** Where the volume is in the sandbox that copies. */
const PLACE = "/mnt/volume";

interface Copy {
  readonly way: "in" | "out";
  readonly volume: string;
  /** In the volume. */
  readonly path: string;
  /** On the host, absolute. */
  readonly host: string;
}

/** `NAME:/path` is in a volume, anything else is a path of the host's. @throws BulkheadError SPEC_INVALID */
export function copyOf(words: readonly string[]): Copy {
  const sides = words.map((word) => /^([a-z0-9][a-z0-9._-]*):(\/.*)$/.exec(word));
  const inVolume = sides.filter((side) => side !== null);
  const [side] = inVolume;
  if (words.length !== 2 || side === undefined || inVolume.length !== 1) {
    throw usageError(
      "volume copy takes a path of the host's and one in a volume",
      `it was given ${JSON.stringify(words)}`,
      "write bulkhead volume copy ./tree NAME:/tree, or the other way round",
    );
  }
  const way = sides[0] === null ? "in" : "out";
  const host = resolve((way === "in" ? words[0] : words[1]) ?? "");
  // What goes above the top of a volume is its top.
  return { way, volume: side[1] ?? "", path: posix.normalize(side[2] ?? "/"), host };
}

/**
 * Copies by a sandbox of its own in which nothing but the agent runs: whatever is in the volume, its links lead nowhere but
 * inside. What is copied in belongs to the volume's owner.
 */
export async function copyVolume(
  { way, volume: name, path, host }: Copy,
  config: CliConfig,
  signal: AbortSignal,
): Promise<Copied> {
  const options = engineOptions(config, signal);
  const { uid, gid } = await new VolumeStore(stateDirectory(options)).record(name);
  await using engine = await Engine.open(options);
  const volumes = [{ name, target: PLACE, readOnly: way === "out", shared: way === "in" }];
  await using box = await engine.create(
    { isolation: { atLeast: "container" }, volumes },
    { signal, ...firstUseNotes() },
  );
  const inside = posix.join(PLACE, path);
  if (way === "out") return await box.copyOut(inside, host, { user: "0", signal });
  return await box.copyIn(host, inside, { user: `${uid}:${gid}`, signal });
}
