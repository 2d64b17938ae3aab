import { BulkheadError } from "@bulkhead/contract";
import { configOf, type Directories } from "../host/index.ts";
import { refuseWithoutRoot } from "../refusals.ts";
import { Conversation } from "./client.ts";
import type { ListedSandbox } from "./operations.ts";
import { ControlDirectory } from "./place.ts";
import { RemoteSandbox } from "./remote.ts";

/** An engine answers in milliseconds unless somebody has stopped it. */
const ANSWER_WITHIN_MS = 3_000;
const SHOWN_NAMES = 8;

interface Found {
  readonly engine: string;
  readonly about: ListedSandbox;
}

export interface Listing {
  /** The oldest first. */
  readonly sandboxes: readonly ListedSandbox[];
  /** Engines that live and did not answer. */
  readonly silent: readonly string[];
}

/** Null of an engine that is gone. @throws BulkheadError of one that does not answer */
async function ask(directory: ControlDirectory): Promise<readonly Found[] | null> {
  try {
    const signal = AbortSignal.timeout(ANSWER_WITHIN_MS);
    using asked = await Conversation.begin(directory, { op: "list" }, { signal });
    return ((await asked.result) as ListedSandbox[]).map((about) => ({ about, engine: directory.engine }));
  } catch (error) {
    if (error instanceof BulkheadError && error.code === "SANDBOX_GONE") return null;
    throw error;
  }
}

async function survey(run: string): Promise<{ readonly found: readonly Found[]; readonly silent: readonly string[] }> {
  const silent: string[] = [];
  const asked = (await ControlDirectory.all(run)).map(async (directory) => {
    await using held = directory;
    try {
      return (await ask(held)) ?? [];
    } catch {
      silent.push(held.engine);
      return [];
    }
  });
  const found = (await Promise.all(asked)).flat().toSorted((a, b) => a.about.createdMs - b.about.createdMs);
  return { found, silent };
}

/** What runs on this host under a run directory, whoever holds it. @throws BulkheadError HOST_NOT_ROOT */
export async function listSandboxes(options: Directories = {}): Promise<Listing> {
  refuseWithoutRoot();
  const { found, silent } = await survey(configOf(options).run);
  return { sandboxes: found.map(({ about }) => about), silent };
}

const shown = ({ about: { id, name } }: Found): string => (name === null ? id : `${name} (${id})`);

function several(all: readonly Found[]): string {
  const rest = all.length - SHOWN_NAMES;
  return all.slice(0, SHOWN_NAMES).map(shown).join(", ") + (rest > 0 ? ` and ${rest} more` : "");
}

/** By name, by id, by an id's beginning that no other has. */
function match(word: string, { found, silent }: Awaited<ReturnType<typeof survey>>): Found {
  const tries = [
    found.filter(({ about }) => about.name === word),
    found.filter(({ about }) => about.id === word),
    word === "" ? [] : found.filter(({ about }) => about.id.startsWith(word)),
  ];
  const [first, ...others] = tries.find((candidates) => candidates.length > 0) ?? [];
  if (first === undefined) {
    const runs = found.length === 0 ? "no sandbox runs" : `what runs: ${several(found)}`;
    const unheard = silent.length === 0 ? "" : `; ${silent.length} stopped or busy processes did not answer`;
    throw new BulkheadError("SANDBOX_NOT_FOUND", {
      what: `no running sandbox is called ${JSON.stringify(word)}`,
      why: `${runs}${unheard}`,
      details: { running: found.map(({ about: { id, name } }) => ({ id, name })) },
    });
  }
  if (others.length === 0) return first;
  const candidates = [first, ...others];
  throw new BulkheadError("SANDBOX_AMBIGUOUS", {
    what: `${JSON.stringify(word)} could be ${candidates.length} sandboxes`,
    why: `they are ${several(candidates)}`,
    details: { candidates: candidates.map(({ about }) => about.id) },
  });
}

/**
 * A sandbox that runs on this host, by its name, its id or the beginning of its id.
 * @throws BulkheadError HOST_NOT_ROOT, SANDBOX_NOT_FOUND, SANDBOX_AMBIGUOUS
 */
export async function findSandbox(word: string, options: Directories = {}): Promise<RemoteSandbox> {
  refuseWithoutRoot();
  const { run } = configOf(options);
  const { engine, about } = match(word, await survey(run));
  const directory = await ControlDirectory.of(run, engine);
  if (directory === null) throw new BulkheadError("SANDBOX_GONE", { what: `sandbox ${about.id} is gone` });
  return new RemoteSandbox(about, directory);
}
