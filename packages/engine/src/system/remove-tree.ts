import { rm } from "node:fs/promises";
import { isAbsolute, normalize, sep } from "node:path";
import { BulkheadError } from "@bulkhead/contract";

/**
 * The one place that deletes recursively. Symbolic links are removed, never followed. A missing `path` is no error.
 *
 * @param path absolute and normal: no `.`, `..` or doubled slash, so that what is read is what is deleted
 * @param within a directory that `path` lies strictly below; the caller's own, never taken from input
 * @throws BulkheadError INTERNAL when `path` is not strictly below `within`
 */
export async function removeTree(path: string, within: string): Promise<void> {
  const below = path.startsWith(within + sep) && path.length > within.length + 1;
  const plain = isAbsolute(path) && normalize(path) === path && !path.endsWith(sep);
  if (!below || !plain || within === "" || within === sep) {
    throw new BulkheadError("INTERNAL", { what: `refusing to delete "${path}": it is not below "${within}"` });
  }
  await rm(path, { recursive: true, force: true, maxRetries: 3 });
}
