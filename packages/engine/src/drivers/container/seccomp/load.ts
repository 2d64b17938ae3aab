import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { writeAtomically } from "../../../host/file-cache.ts";
import { makeFilter, type Filter } from "./compile.ts";
import { PROFILE } from "./profile.ts";
import type { Architecture } from "../../../seccomp/syscalls.ts";

/** Raised when the compiler makes other programs from the same profile. */
const COMPILER_VERSION = 1;

function architecture(arch: string): Architecture {
  if (arch === "x64" || arch === "arm64") return arch;
  throw new BulkheadError("HOST_UNSUPPORTED", {
    what: `there is no system-call filter for ${arch}`,
    next: "use an x86_64 or arm64 machine",
  });
}

/** A stored filter counts only if its program has the digest it claims: a damaged one is made again. */
function readFilter(text: string, arch: Architecture): Filter | null {
  const stored = JSON.parse(text) as Partial<Filter>;
  const digest = createHash("sha256")
    .update(Buffer.from(stored.program ?? "", "base64"))
    .digest("hex");
  if (stored.digest !== digest || stored.arch !== arch || stored.name !== PROFILE.name) return null;
  return { name: stored.name, arch, digest, program: stored.program ?? "" };
}

/**
 * The container profile's filter, from the state directory when this profile was compiled before.
 *
 * @throws BulkheadError HOST_UNSUPPORTED for an architecture without a table.
 */
export async function loadFilter(state: string, hostArch: string): Promise<Filter> {
  const arch = architecture(hostArch);
  const key = createHash("sha256")
    .update(JSON.stringify([COMPILER_VERSION, arch, PROFILE]))
    .digest("hex");
  const path = join(state, "cache", `seccomp-${key.slice(0, 16)}.json`);
  const stored = await readFile(path, "utf8")
    .then((text) => readFilter(text, arch))
    .catch(() => null);
  if (stored !== null) return stored;
  const made = makeFilter(PROFILE, arch);
  // Where the state directory cannot be written the next process compiles again, which takes milliseconds.
  await writeAtomically(path, JSON.stringify(made)).catch(() => undefined);
  return made;
}
