import { type BigIntStats, constants } from "node:fs";
import { type FileHandle, lstat, open, readdir, readlink } from "node:fs/promises";
import { BulkheadError } from "@bulkhead/contract";
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
import type { Files } from "./files.ts";
import { type GuestPath, pathBytes } from "./names.ts";

/** While it is being filled. */
const OWNER_MAY_ALL = 0o700;
/** Opening waits for nobody, whatever has taken a file's place meanwhile. */
const READ = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** What a copy goes into. */
export type CopyTarget = Pick<Files, "mkdir" | "write" | "symlink" | "chmod" | "setModified">;

interface Job {
  readonly files: CopyTarget;
  readonly tally: Tally;
  readonly options: CopyOptions;
}

/**
 * Copies a file or a directory of the host's with all that is in it to a path inside. Directories that are there are filled,
 * files replaced. Links in it are copied as they are and never followed, also when somebody changes the tree meanwhile; a
 * link at the path itself is. Modes are kept without set-user-id and set-group-id bits, and times; what is made belongs to
 * who acts.
 *
 * @throws BulkheadError COPY_REFUSED, OUTPUT_LIMIT, HOST_RESOURCE, and as `Files`; what was copied until then stays
 */
export async function copyIn(
  files: CopyTarget,
  from: string,
  to: GuestPath,
  options: CopyOptions = {},
): Promise<Copied> {
  const job = { files, tally: new Tally(JSON.stringify(from), options), options };
  const target = Buffer.from(pathBytes(to));
  const work = async (): Promise<Copied> => {
    await using top = await open(from, constants.O_RDONLY | constants.O_NONBLOCK);
    const found = await top.stat({ bigint: true });
    if (found.isDirectory()) await directory(job, top, found, target, 1);
    else if (found.isFile()) await file(job, top, found, target);
    else throw refused(`${JSON.stringify(from)} cannot be copied`, "it is neither", "name a file or a directory");
    return job.tally.copied;
  };
  return await onHost(`${JSON.stringify(from)} cannot be copied`, work());
}

async function directory(job: Job, here: FileHandle, found: BigIntStats, to: Buffer, depth: number): Promise<void> {
  const { files, tally, options } = job;
  if (depth > MAX_DEPTH)
    throw refused("a tree cannot be copied", `it is nested deeper than ${MAX_DEPTH} directories`, "copy a part of it");
  tally.entry("directories");
  const wanted = modeOf(found);
  await files.mkdir(to, { ...options, mode: wanted | OWNER_MAY_ALL, parents: true });
  const names = await readdir(`/proc/self/fd/${here.fd}`, { encoding: "buffer" });
  const below: Buffer[] = [];
  await some(names, async (name) => {
    if (!(await leaf(job, here, name, child(to, name)))) below.push(name);
  });
  for (const name of below) {
    await using next = await openDirectory(within(here, name));
    await directory(job, next, await next.stat({ bigint: true }), child(to, name), depth + 1);
  }
  if ((wanted & OWNER_MAY_ALL) !== OWNER_MAY_ALL) await files.chmod(to, wanted, options);
  await dated(job, to, found);
}

const modeOf = ({ mode }: BigIntStats): number => Number(mode) & COPIED_MODE;

/** Of what was there and is somebody else's the time is his to change: it is that of the copy. */
async function dated({ files, options }: Job, to: Buffer, { mtimeNs }: BigIntStats): Promise<void> {
  try {
    await files.setModified(to, mtimeNs, options);
  } catch (error) {
    if (!(error instanceof BulkheadError) || error.code !== "FILE_PERMISSION") throw error;
  }
}

const child = (above: Buffer, name: Buffer): Buffer => Buffer.concat([above, Buffer.from("/"), name]);

/** @returns whether it was one; a directory is left to be done later. */
async function leaf(job: Job, above: FileHandle, name: Buffer, to: Buffer): Promise<boolean> {
  const { files, tally, options } = job;
  const found = await lstat(within(above, name), { bigint: true });
  if (found.isDirectory()) return false;
  if (found.isSymbolicLink()) {
    tally.entry("links");
    await files.symlink(await readlink(within(above, name), { encoding: "buffer" }), to, options);
    await dated(job, to, found);
  } else if (found.isFile()) {
    await using opened = await open(within(above, name), READ);
    const now = await opened.stat({ bigint: true });
    if (!now.isFile()) throw refused("a tree cannot be copied", "it changes meanwhile", "copy it when it is at rest");
    await file(job, opened, now, to);
  } else {
    tally.entry("leftOut");
  }
  return true;
}

async function file(job: Job, from: FileHandle, found: BigIntStats, to: Buffer): Promise<void> {
  const { files, tally, options } = job;
  tally.entry("files");
  async function* pieces(): AsyncGenerator<Buffer> {
    for await (const piece of from.createReadStream({ autoClose: false })) {
      tally.take((piece as Buffer).length);
      yield piece as Buffer;
    }
  }
  await files.write(to, pieces(), { ...options, mode: modeOf(found) });
  await dated(job, to, found);
}
