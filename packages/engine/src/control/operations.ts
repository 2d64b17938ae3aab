import { BulkheadError } from "@bulkhead/contract";
import type { Readable } from "node:stream";
import type { FileEntry } from "../sandbox/entries.ts";
import type { Sandbox } from "../sandbox/sandbox.ts";
import type { Ask } from "./ask.ts";
import { Kind, type Peer } from "./frames.ts";
import { execute } from "./execute.ts";

/** One connection, as what it asked for sees it. */
export interface Session {
  readonly peer: Peer;
  /** The bytes that the client sends; an error where it goes before their end. */
  readonly input: Readable;
  /** Aborted when the client has gone. */
  readonly signal: AbortSignal;
  onControl(listener: (ask: Ask) => void): void;
}

export interface ListedSandbox {
  readonly id: string;
  readonly name: string | null;
  readonly level: string;
  readonly driver: string;
  /** As it was asked for. */
  readonly image: string;
  /** Milliseconds since 1970. */
  readonly createdMs: number;
  readonly paused: boolean;
  /** Of the process whose engine holds it. */
  readonly pid: number;
}

/** An entry on its way to a client: bytes as base64. */
export type SentEntry = Omit<FileEntry, "pathBytes" | "targetBytes"> & {
  readonly pathBytes: string;
  readonly targetBytes: string | null;
};

/** Of a listing, in one frame; names are 4 KiB at most, so that no part is near the frame's bound. */
const ENTRIES_AT_ONCE = 64;

type Operation = (box: Sandbox, ask: Ask, session: Session) => Promise<unknown>;

export function listed({ id, name, plan, createdMs, paused }: Sandbox): ListedSandbox {
  const { level, driver, image } = plan;
  return { id, name, level, driver, image: image.reference, createdMs, paused, pid: process.pid };
}

function sent(entry: FileEntry): SentEntry {
  const { pathBytes, targetBytes } = entry;
  const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");
  return { ...entry, pathBytes: base64(pathBytes), targetBytes: targetBytes === null ? null : base64(targetBytes) };
}

const as = (ask: Ask, { signal }: Session): { user: string; signal: AbortSignal } => ({
  user: ask.has("user") ? ask.text("user") : "",
  signal,
});

const read: Operation = async (box, ask, session) => {
  const stream = await box.files.readStream(ask.bytes("path"), as(ask, session));
  await session.peer.send(Kind.started);
  for await (const piece of stream) await session.peer.data(Kind.data, piece as Buffer);
  return {};
};

const entries: Operation = async (box, ask, { peer, ...session }) => {
  let part: SentEntry[] = [];
  for await (const entry of box.files.entries(ask.bytes("path"), as(ask, { peer, ...session }))) {
    part.push(sent(entry));
    if (part.length < ENTRIES_AT_ONCE) continue;
    await peer.json(Kind.item, part);
    part = [];
  }
  await peer.json(Kind.item, part);
  return {};
};

const write: Operation = (box, ask, session) =>
  box.files.write(ask.bytes("path"), session.input, {
    ...as(ask, session),
    ...ask.given("mode", (field) => ask.number(field)),
    atomic: ask.flag("atomic"),
  });

const OPERATIONS: Readonly<Record<string, Operation>> = {
  read,
  entries,
  write,
  execute,
  stat: async (box, ask, session) =>
    sent(await box.files.stat(ask.bytes("path"), { ...as(ask, session), follow: ask.flag("follow") })),
  mkdir: async (box, ask, session) => {
    const options = { mode: ask.number("mode"), parents: ask.flag("parents") };
    await box.files.mkdir(ask.bytes("path"), { ...as(ask, session), ...options });
  },
  symlink: (box, ask, session) => box.files.symlink(ask.bytes("target"), ask.bytes("path"), as(ask, session)),
  chmod: (box, ask, session) => box.files.chmod(ask.bytes("path"), ask.number("mode"), as(ask, session)),
  setModified: (box, ask, session) =>
    box.files.setModified(ask.bytes("path"), ask.long("modifiedNs"), as(ask, session)),
  distrust: async (box, ask) => {
    throw await box.distrust(ask.text("why"));
  },
  stop: (box, ask) => box.stop(ask.given("timeoutMs", (field) => ask.number(field))),
};

/** @returns the result, as JSON has it */
export async function perform(boxes: ReadonlySet<Sandbox>, ask: Ask, session: Session): Promise<unknown> {
  const name = ask.text("op");
  if (name === "list") return [...boxes].map(listed);
  const operation = Object.hasOwn(OPERATIONS, name) ? OPERATIONS[name] : undefined;
  if (operation === undefined) {
    throw new BulkheadError("SPEC_INVALID", {
      what: `the engine does not know ${JSON.stringify(name.slice(0, 64))}`,
      next: "use the bulkhead that belongs to the engine",
    });
  }
  const id = ask.text("sandbox");
  const box = [...boxes].find((one) => one.id === id);
  if (box === undefined) throw new BulkheadError("SANDBOX_GONE", { what: `sandbox ${JSON.stringify(id)} is gone` });
  return (await operation(box, ask, session)) ?? {};
}
