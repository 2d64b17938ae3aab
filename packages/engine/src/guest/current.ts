import { access, readFile, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { writeAtomically } from "../host/file-cache.ts";

const INDEX = "current";
const DIGEST = /^[0-9a-f]{64}$/;

export interface LocatedKernel {
  readonly path: string;
  /** sha256 of what it was built from, hex. */
  readonly digest: string;
}

/**
 * The guest kernel that was asked for last, without asking whether its inputs have changed: that takes apt and a compiler,
 * and is the business of who builds.
 */
export async function currentKernel(stateDir: string): Promise<LocatedKernel | null> {
  const home = join(stateDir, "guest");
  const said = (await readFile(join(home, INDEX), "utf8").catch(() => "")).trim();
  const named = DIGEST.test(said) ? await kernelIn(home, said) : null;
  return named ?? (await newest(home));
}

/** @throws the file system's error */
export async function setCurrentKernel(stateDir: string, digest: string): Promise<void> {
  await writeAtomically(join(stateDir, "guest", INDEX), `${digest}\n`);
}

async function kernelIn(home: string, digest: string): Promise<LocatedKernel | null> {
  const path = join(home, digest, "vmlinux");
  return access(path).then(
    () => ({ path, digest }),
    () => null,
  );
}

async function newest(home: string): Promise<LocatedKernel | null> {
  let best: { readonly kernel: LocatedKernel; readonly at: number } | null = null;
  for (const name of await readdir(home).catch(() => [])) {
    const kernel = DIGEST.test(name) ? await kernelIn(home, name) : null;
    if (kernel === null) continue;
    const { mtimeMs } = await stat(kernel.path);
    if (best === null || mtimeMs > best.at) best = { kernel, at: mtimeMs };
  }
  return best?.kernel ?? null;
}
