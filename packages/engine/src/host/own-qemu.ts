import { readFile } from "node:fs/promises";
import { join } from "node:path";

/** Home of the QEMU that is built here, relative to the state directory. */
export const OWN_QEMU = "runtimes/qemu";

/** Says what Debian's program was when ours was chosen: sha256 of its content, hex, or nothing where there was none. */
export function besidePath(home: string): string {
  return join(home, "beside");
}

/**
 * Whether the QEMU that was built here counts. Debian's has perhaps been mended when it is not what it was, so then it is the one
 * to be used until ours is built anew.
 *
 * @param packaged digest of Debian's program at present, null where there is none
 */
export async function ownQemuCounts(state: string, packaged: string | null): Promise<boolean> {
  try {
    const beside = (await readFile(besidePath(join(state, OWN_QEMU)), "utf8")).trim();
    return packaged === null || beside === packaged;
  } catch {
    return false;
  }
}
