import { formatBytes, nearest, parseBytes, parseWhole } from "@bulkhead/contract";
import { stateDirectory } from "@bulkhead/engine/host";
import { type ListedVolume, VolumeStore } from "@bulkhead/engine/volumes";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import { parseAnywhere, refuseRest, usageError, type Parsed } from "../options.ts";
import { print, printJson } from "../print.ts";
import { renderCopied } from "../render/copied.ts";
import { columns } from "../render/style.ts";
import { exitCodeOfSignal, SignalForwarder } from "../run/signals.ts";
import { VOLUME_OPTIONS } from "./table.ts";

const DEFAULT_SIZE = "1g";
const ACTIONS = ["create", "list", "remove", "copy"] as const;

type Act = (parsed: Parsed, store: VolumeStore, config: CliConfig) => Promise<number>;

function ownerOf(text: string): { uid: number; gid: number } {
  const [uid = "", gid = uid, ...more] = text.split(":");
  if (more.length === 0) return { uid: parseWhole(uid, "--owner"), gid: parseWhole(gid, "--owner") };
  throw usageError(
    `--owner ${JSON.stringify(text)} is not valid`,
    "an owner is UID or UID:GID",
    "write it like 1000:1000",
  );
}

function oneName(parsed: Parsed, action: string): string {
  const [name, ...more] = parsed.rest;
  if (name !== undefined && more.length === 0) return name;
  throw usageError(
    `volume ${action} takes one name`,
    `${parsed.rest.length} are given`,
    `write bulkhead volume ${action} NAME`,
  );
}

/** Until it is done or called off by a signal. */
async function interruptible(work: (signal: AbortSignal) => Promise<void>): Promise<number> {
  using signals = new SignalForwarder();
  try {
    await work(signals.starting);
    return 0;
  } catch (error) {
    if (signals.first !== undefined) return exitCodeOfSignal(signals.first);
    throw error;
  }
}

const create: Act = async (parsed, store) => {
  const name = oneName(parsed, "create");
  const one = (option: string): string | undefined => parsed.values.get(option)?.[0];
  const [inodes, owner] = [one("inodes"), one("owner")];
  return await interruptible(async (signal) => {
    const made = await store.create(name, {
      sizeBytes: parseBytes(one("size") ?? DEFAULT_SIZE, "--size"),
      ...(inodes !== undefined && { inodes: parseWhole(inodes, "--inodes") }),
      ...(owner !== undefined && { owner: ownerOf(owner) }),
      signal,
    });
    if (parsed.values.has("json")) await printJson(made);
    else await print(`${name}: ${formatBytes(made.record?.sizeBytes ?? 0)}, ${made.record?.inodes} files`);
  });
};

function usersText({ users }: ListedVolume): string {
  if (users.writers > 0) return "written to";
  return users.readers === 0 ? "-" : `${users.readers} reading or sharing`;
}

const list: Act = async (parsed, store) => {
  refuseRest("volume list", parsed.rest);
  const volumes = await store.list();
  if (parsed.values.has("json")) {
    await printJson(volumes);
    return 0;
  }
  const rows = volumes.map((volume) => [
    volume.name,
    volume.record === null ? "damaged" : formatBytes(volume.record.sizeBytes),
    formatBytes(volume.usedBytes),
    volume.record === null ? "-" : `${volume.record.uid}:${volume.record.gid}`,
    usersText(volume),
  ]);
  await print(columns([["NAME", "SIZE", "ON DISK", "OWNER", "IN USE"], ...rows]));
  return 0;
};

const remove: Act = async (parsed, store) => {
  if (parsed.rest.length === 0)
    throw usageError("no volume is named", "volume remove needs a name", "see bulkhead volume list");
  for (const name of parsed.rest) await store.remove(name);
  if (parsed.values.has("json")) await printJson(parsed.rest.map((name) => ({ name, removed: true })));
  else await print(parsed.rest.map((name) => `${name}: removed`).join("\n"));
  return 0;
};

const copy: Act = async (parsed, _store, config) => {
  const { copyOf, copyVolume } = await import("../run/volume-copy.ts");
  const asked = copyOf(parsed.rest);
  return await interruptible(async (signal) => {
    const copied = await copyVolume(asked, config, signal);
    if (parsed.values.has("json")) return await printJson(copied);
    await print(renderCopied(copied));
  });
};

const ACTS: Readonly<Record<(typeof ACTIONS)[number], Act>> = { create, list, remove, copy };

function unknownAction(action: string): Error {
  const guess = nearest(action, ACTIONS);
  return usageError(
    action === "" ? "bulkhead volume needs to know what to do" : `unknown action ${JSON.stringify(action)}`,
    `bulkhead volume does: ${ACTIONS.join(", ")}`,
    guess === undefined ? "see bulkhead help volume" : `did you mean bulkhead volume ${guess}?`,
  );
}

/** Options that belong to another action are not read over. */
function onlyForCreate(action: string, parsed: Parsed): void {
  const name = action === "create" ? undefined : ["size", "inodes", "owner"].find((one) => parsed.values.has(one));
  if (name === undefined) return;
  throw usageError(
    `option --${name} does not belong to volume ${action}`,
    "it is for volume create",
    `leave out --${name}`,
  );
}

/** Options may stand before, between and after what to do and its names. */
export async function volume(words: readonly string[], config: CliConfig): Promise<number> {
  const { values, rest } = parseAnywhere("volume", VOLUME_OPTIONS, words);
  if (values.has("help")) return (await import("./help.ts")).printHelp("volume");
  const [action = "", ...names] = rest;
  const known = ACTIONS.find((one) => one === action);
  if (known === undefined) throw unknownAction(action);
  const parsed = { values, rest: names };
  onlyForCreate(action, parsed);
  return await ACTS[known](parsed, new VolumeStore(stateDirectory(engineOptions(config))), config);
}
