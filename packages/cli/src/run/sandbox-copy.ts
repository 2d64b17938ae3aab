import { stat } from "node:fs/promises";
import { basename, join, posix, resolve } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import type { Copied, CopyOptions, RemoteSandbox } from "@bulkhead/engine";
import { usageError } from "../options.ts";

export interface Copy {
  readonly way: "in" | "out";
  /** A name, an id or an id's beginning. */
  readonly sandbox: string;
  /** In the sandbox, as it was written. */
  readonly inside: string;
  /** On the host, as it was written. */
  readonly host: string;
}

/** With these a path names a directory, or what is in it. */
const ENDS_AS_DIRECTORY = /(^|\/)\.{0,2}$/;
const CONTENTS = /(^|\/)\.$/;

/** `NAME:PATH` is in a sandbox; what has no name before a colon is a path of the host's. @throws BulkheadError SPEC_INVALID */
export function copyOf(words: readonly string[]): Copy {
  const next = "write bulkhead cp ./tree NAME:/tree, or the other way round; ./a:b is a path of the host's";
  const [first, second, ...more] = words;
  if (first === undefined || second === undefined || more.length > 0) {
    throw usageError("cp takes a source and a target", `${words.length} paths are given`, next);
  }
  if (words.includes("-")) {
    const why = "cp reads and writes files, no archives";
    throw usageError("cp takes no -", why, "write tar c . | bulkhead exec -i NAME -- tar x -C DIRECTORY");
  }
  const [from, to] = [first, second].map((word) => /^([a-z0-9][a-z0-9._-]*):(.*)$/s.exec(word));
  if (from != null && to == null) return { way: "out", sandbox: from[1]!, inside: from[2] || ".", host: second };
  if (to != null && from == null) return { way: "in", sandbox: to[1]!, inside: to[2] || ".", host: first };
  const why = from == null ? "both are the host's" : "both are in sandboxes";
  throw usageError("cp takes one path of the host's and one in a sandbox", why, next);
}

const refused = (what: string, why: string, next: string): BulkheadError =>
  new BulkheadError("COPY_REFUSED", { what, why, next });

async function entryAt({ files }: RemoteSandbox, path: string, options: CopyOptions) {
  try {
    return await files.stat(path, options);
  } catch (error) {
    if (error instanceof BulkheadError && error.code === "FILE_NOT_FOUND") return null;
    throw error;
  }
}

/** Where in the sandbox the copy goes. */
async function placeInside(box: RemoteSandbox, { host, inside }: Copy, options: CopyOptions): Promise<string> {
  const isDirectory = (await stat(host).catch(() => null))?.isDirectory() ?? false;
  const there = await entryAt(box, inside, options);
  if (there?.kind === "directory")
    return isDirectory && CONTENTS.test(host) ? inside : posix.join(inside, basename(resolve(host)));
  if (there === null) {
    if (!isDirectory && ENDS_AS_DIRECTORY.test(inside)) {
      const what = `there is no directory ${JSON.stringify(inside)} in the sandbox`;
      throw refused(what, "a file is copied into a directory that is there", "make it first, or name the file");
    }
    await box.files.stat(posix.dirname(posix.normalize(inside).replace(/(.)\/+$/, "$1")), options);
    return inside;
  }
  if (!isDirectory) return inside;
  const what = `${JSON.stringify(inside)} in the sandbox is no directory`;
  throw refused(what, "a directory takes the place of nothing", "choose another path");
}

/** Where on the host it goes. Names come from the command line, never from the sandbox. */
async function placeOnHost({ host, inside }: Copy, isDirectory: boolean): Promise<string> {
  const target = resolve(host);
  const there = await stat(host).catch(() => null);
  if (there?.isDirectory() === true) {
    const name = posix.basename(posix.normalize(inside));
    if (!CONTENTS.test(inside) && !["", ".", "..", "/"].includes(name)) return join(target, name);
    const what = `${JSON.stringify(inside)} has no name to be copied under`;
    throw refused(what, `${target} is there already`, "name a directory that is not there yet");
  }
  if (there !== null || isDirectory || !ENDS_AS_DIRECTORY.test(host)) return target;
  const what = `there is no directory ${JSON.stringify(host)}`;
  throw refused(what, "a file is copied into a directory that is there", "make it first, or name the file");
}

/** Says how a user is chosen here. */
function inWords(error: unknown): unknown {
  if (!(error instanceof BulkheadError) || error.code !== "FILE_PERMISSION") return error;
  const { message: what, why, details } = error;
  return new BulkheadError(error.code, { what, why, next: "act as another user: --user root", details, cause: error });
}

/** @throws BulkheadError COPY_REFUSED, and as `Sandbox.copyIn` and `copyOut` */
export async function copyAs(box: RemoteSandbox, copy: Copy, options: CopyOptions): Promise<Copied> {
  try {
    if (copy.way === "in") return await box.copyIn(resolve(copy.host), await placeInside(box, copy, options), options);
    const { kind } = await box.files.stat(copy.inside, options);
    const to = await placeOnHost(copy, kind === "directory");
    return await box.copyOut(copy.inside, to, { ...options, replaceFile: true });
  } catch (error) {
    throw inWords(error);
  }
}
