import type { BulkheadError } from "@bulkhead/contract";
import { constants } from "node:fs";
import { type FileHandle, lstat, mkdir, mkdtemp, open, rename, symlink } from "node:fs/promises";
import { basename, dirname, isAbsolute, normalize } from "node:path";
import { Malformed } from "../channel/codec.ts";
import { removeTree } from "../system/remove-tree.ts";
import {
  COPIED_MODE,
  type Copied,
  type CopyOptions,
  MAX_DEPTH,
  onHost,
  openDirectory,
  refused,
  some,
  Tally,
  within,
} from "./copy.ts";
import type { FileEntry } from "./entries.ts";
import type { Files } from "./files.ts";
import { type GuestPath, quote } from "./names.ts";

const DRAFT_PREFIX = ".bulkhead-copy-";
const CONTENT = "content";
/** NAME_MAX of every file system here. */
const MAX_NAME_BYTES = 255;
const SLASH = 0x2f;
const PRIVATE_FILE = 0o600;
const PRIVATE_DIRECTORY = 0o700;
const MS_PER_SECOND = 1000;

/** What a copy comes out of. */
export interface CopySource {
  readonly files: Pick<Files, "stat" | "entries" | "readStream">;
  /** The agent has said what it cannot mean: its sandbox is ended. @returns what to fail with */
  distrust(why: string): Promise<BulkheadError>;
}

export interface CopyOutOptions extends CopyOptions {
  /** A file may take the place of a file that is there. Default: false. */
  readonly replaceFile?: boolean;
}

interface Job {
  readonly files: CopySource["files"];
  readonly tally: Tally;
  readonly options: CopyOptions;
}

/**
 * Copies a file or a directory with all that is in it out of a sandbox, to a path of the host's where nothing is yet: it
 * appears there by one rename when it is whole. Links are copied as they are and never followed, modes without set-user-id
 * and set-group-id bits; all of it belongs to this process's user.
 *
 * Everything the agent says is a claim of the sandbox's: a name is one component of a path or the sandbox is ended, and each
 * is used in a directory that is held open, so that nothing is written elsewhere.
 *
 * @throws BulkheadError COPY_REFUSED, OUTPUT_LIMIT, HOST_RESOURCE, CHANNEL_PROTOCOL, and as `Files`; nothing is left then
 */
export async function copyOut(
  source: CopySource,
  from: GuestPath,
  to: string,
  options: CopyOutOptions = {},
): Promise<Copied> {
  const shown = `copy ${JSON.stringify(to)}`;
  if (!isAbsolute(to) || normalize(to) !== to || to.endsWith("/"))
    throw refused(`${shown} cannot be made`, "its path is not absolute and plain", "write it without . and ..");
  const job = { files: source.files, tally: new Tally(`what is at ${quote(from)}`, options), options };
  const work = async (): Promise<Copied> => {
    const top = await job.files.stat(from, options);
    await using above = await open(dirname(to), constants.O_RDONLY | constants.O_DIRECTORY);
    const mayReplace = options.replaceFile === true && top.kind === "file";
    await requireAbsent(above, to, mayReplace);
    await using draft = await draftIn(above);
    if (top.kind === "directory")
      await directory(job, Buffer.from(top.pathBytes), top, draft.dir, Buffer.from(CONTENT), 1);
    else if (top.kind === "file") await file(job, top, draft.dir, Buffer.from(CONTENT));
    else throw refused(`${quote(from)} cannot be copied`, `it is a ${top.kind}`, "name a file or a directory");
    await requireAbsent(above, to, mayReplace);
    await rename(within(draft.dir, CONTENT), within(above, basename(to)));
    return job.tally.copied;
  };
  try {
    return await onHost(`${shown} cannot be made`, work());
  } catch (error) {
    if (!(error instanceof Malformed)) throw error;
    throw await source.distrust(error.message);
  }
}

/** @param mayReplace a plain file there is no hindrance; what a link leads to is never touched */
async function requireAbsent(above: FileHandle, to: string, mayReplace: boolean): Promise<void> {
  const found = await lstat(within(above, basename(to))).catch(() => null);
  if (found === null || (mayReplace && found.isFile())) return;
  throw refused(
    `${JSON.stringify(to)} is there already`,
    "a copy replaces nothing",
    "choose another path, or remove it",
  );
}

/** An empty directory of ours alone beside the target, held open; gone when disposed of. */
async function draftIn(above: FileHandle): Promise<{ readonly dir: FileHandle } & AsyncDisposable> {
  const parent = `/proc/self/fd/${above.fd}`;
  const path = await mkdtemp(`${parent}/${DRAFT_PREFIX}`);
  await using stack = new AsyncDisposableStack();
  stack.defer(() => removeTree(path, parent));
  const dir = stack.use(await openDirectory(path));
  const { uid, mode } = await dir.stat();
  if (uid !== process.getuid?.() || (mode & COPIED_MODE) !== PRIVATE_DIRECTORY)
    throw refused(
      "a copy cannot be begun",
      "somebody else has put something in its place",
      "copy to a directory of your own",
    );
  const owned = stack.move();
  return { dir, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** The one component that an entry adds to its directory's path. @throws Malformed when it is none */
function nameOf({ pathBytes }: FileEntry, directoryPath: Buffer): Buffer {
  const path = Buffer.from(pathBytes);
  const start = directoryPath.at(-1) === SLASH ? directoryPath.length : directoryPath.length + 1;
  const name = path.subarray(start);
  const below = path.subarray(0, start).equals(Buffer.concat([directoryPath, Buffer.from("/")]).subarray(0, start));
  const text = name.toString("latin1");
  const plain = !/[/\0]/.test(text) && !["", ".", ".."].includes(text) && name.length <= MAX_NAME_BYTES;
  if (below && plain) return name;
  throw new Malformed(`an entry ${quote(pathBytes)} of directory ${quote(directoryPath)}`);
}

async function directory(
  job: Job,
  from: Buffer,
  entry: FileEntry,
  above: FileHandle,
  name: Buffer,
  depth: number,
): Promise<void> {
  const { files, tally, options } = job;
  if (depth > MAX_DEPTH)
    throw refused(`${quote(from)} cannot be copied`, `it is nested deeper than ${MAX_DEPTH}`, "copy a part of it");
  tally.entry("directories");
  await mkdir(within(above, name), { mode: PRIVATE_DIRECTORY });
  await using here = await openDirectory(within(above, name));
  const found: FileEntry[] = [];
  for await (const one of files.entries(from, options)) {
    found.push(one);
    // One more than there is room for is enough to know.
    if (found.length > tally.room) break;
  }
  const [directories, others] = [
    found.filter((one) => one.kind === "directory"),
    found.filter((one) => one.kind !== "directory"),
  ];
  await some(others, (one) => leaf(job, one, here, nameOf(one, from)));
  for (const one of directories) {
    await directory(job, Buffer.from(one.pathBytes), one, here, nameOf(one, from), depth + 1);
  }
  await finish(here, entry);
}

async function leaf(job: Job, entry: FileEntry, above: FileHandle, name: Buffer): Promise<void> {
  if (entry.kind === "file") return await file(job, entry, above, name);
  if (entry.kind !== "symlink" || entry.targetBytes === null || entry.targetBytes.length === 0)
    return job.tally.entry("leftOut");
  job.tally.entry("links");
  await symlink(Buffer.from(entry.targetBytes), within(above, name));
}

async function file({ files, tally, options }: Job, entry: FileEntry, above: FileHandle, name: Buffer): Promise<void> {
  tally.entry("files");
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  await using made = await open(within(above, name), flags, PRIVATE_FILE);
  const source = await files.readStream(entry.pathBytes, options);
  for await (const piece of source) {
    tally.take((piece as Buffer).length);
    await made.writeFile(piece as Buffer);
  }
  await finish(made, entry);
}

async function finish(made: FileHandle, { mode, modifiedMs }: FileEntry): Promise<void> {
  await made.utimes(modifiedMs / MS_PER_SECOND, modifiedMs / MS_PER_SECOND);
  await made.chmod(mode & COPIED_MODE);
}
