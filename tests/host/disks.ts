import { createHash } from "node:crypto";
import { cp, link, mkdir, mkdtemp, readdir, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { lockFile } from "../../packages/engine/src/system/file-lock.ts";
import { runChecked } from "../../packages/engine/src/system/process.ts";
import { exists, REPOSITORY, type Say, TOOL_ENVIRONMENT } from "./common.ts";
import { sweepHome, touch } from "./sweep.ts";

/** Room for what is written inside, and for the file system's own tables. */
const SPARE_KIB = 512 * 1024;
const MAKE_TIMEOUT_MS = 5 * 60_000;
/** Not the source: outputs, and what has a disk of its own. */
const NOT_SOURCE = new Set([".git", ".bulkhead", "node_modules", "target", "coverage", "dist"]);
const BINARIES = ["bulkhead-agent", "bulkhead-keeper", "bulkhead-layers"];

/** Files of a disk: from where, and where on the disk; the disk's root when `to` is empty. */
interface Part {
  readonly from: string;
  readonly to: string;
}

/** Either parts put together, or one tree as it is, owners and all, which `told` changes along with. */
type Content =
  | { readonly kind: "parts"; readonly parts: readonly Part[] }
  | { readonly kind: "tree"; readonly from: string; readonly told: string };

export interface HostDisks {
  /** node, the runtimes and the guest kernel: read only. */
  readonly tools: string;
  /** Becomes the state directory's images. */
  readonly images: string;
  /** The repository with its built programs. */
  readonly source: string;
  /** node_modules: read only. */
  readonly packages: string;
}

/** The four disks beside the system's, each made anew only when what is on it has changed. */
export async function hostDisks(home: string, state: string, say: Say, signal: AbortSignal): Promise<HostDisks> {
  const disk = (name: string, content: Content): Promise<string> => makeDisk(home, name, content, say, signal);
  const tools: Part[] = [{ from: process.execPath, to: "node" }];
  for (const name of ["runtimes", "guest"]) {
    if (await exists(join(state, name))) tools.push({ from: join(state, name), to: name });
  }
  const [images, packages] = [join(state, "images"), join(REPOSITORY, "node_modules")];
  return {
    tools: await disk("tools", { kind: "parts", parts: tools }),
    // An image's name holds its digest, and what else is there are locks.
    images: await disk("images", { kind: "tree", from: images, told: join(images, "refs") }),
    source: await disk("source", { kind: "parts", parts: await sourceParts() }),
    packages: await disk("packages", { kind: "tree", from: packages, told: join(packages, ".package-lock.json") }),
  };
}

async function sourceParts(): Promise<readonly Part[]> {
  const names = (await readdir(REPOSITORY)).filter((name) => !NOT_SOURCE.has(name));
  const built = BINARIES.map((name) => ({
    from: join(REPOSITORY, "target/release", name),
    to: `target/release/${name}`,
  }));
  return [...names.map((name) => ({ from: join(REPOSITORY, name), to: name })), ...built];
}

async function makeDisk(home: string, name: string, content: Content, say: Say, signal: AbortSignal): Promise<string> {
  const key = await keyOf(content.kind === "parts" ? content.parts : [{ from: content.told, to: "" }]);
  const path = join(home, `${name}-${key}.disk`);
  await using _lock = await lockFile(join(home, "lock"), { signal, onWait: () => say("waiting for another build") });
  if (await exists(path)) {
    await touch(path);
    return path;
  }
  say(`making the disk with the ${name}`);
  await sweepHome(home);
  const scratch = await mkdtemp(join(home, ".disk-"));
  await using cleanup = new AsyncDisposableStack();
  cleanup.defer(() => rm(scratch, { recursive: true, force: true }));
  const run = (argv: readonly string[]): Promise<{ readonly stdout: string }> =>
    runChecked(["setpriv", "--pdeathsig", "KILL", "nice", "-n", "10", ...argv], {
      failure: "IMAGE_BUILD_FAILED",
      next: "see whether the disk is full",
      timeoutMs: MAKE_TIMEOUT_MS,
      env: TOOL_ENVIRONMENT,
      signal,
    });
  const tree = content.kind === "parts" ? await stage(join(scratch, "tree"), content.parts) : content.from;
  const usedKib = Number.parseInt((await run(["du", "--summarize", "--block-size=1024", tree])).stdout, 10);
  const kib = Math.ceil(usedKib * 1.2) + SPARE_KIB;
  await run(["mkfs.ext4", "-q", "-F", "-m", "0", "-d", tree, join(scratch, "disk"), `${kib}`]);
  await rename(join(scratch, "disk"), path);
  return path;
}

/** One directory with all the parts in it; files are linked where the file system allows it. */
async function stage(tree: string, parts: readonly Part[]): Promise<string> {
  for (const { from, to } of parts) {
    const target = join(tree, to);
    await mkdir(dirname(target), { recursive: true });
    const linked =
      (await stat(from)).isFile() &&
      (await link(from, target).then(
        () => true,
        () => false,
      ));
    if (!linked) await cp(from, target, { recursive: true, verbatimSymlinks: true, filter: isSource });
  }
  return tree;
}

const isSource = (path: string): boolean => !(path.startsWith(REPOSITORY) && /\/(?:node_modules|target)$/.test(path));

/** Names, sizes and times of all files: what tells that a file has changed without reading it. */
async function keyOf(parts: readonly Part[]): Promise<string> {
  const hash = createHash("sha256");
  const visit = async (path: string, to: string): Promise<void> => {
    if (!isSource(path)) return;
    const found = await stat(path);
    if (!found.isDirectory()) return void hash.update(JSON.stringify([to, found.mode, found.size, found.mtimeMs]));
    const entries = (await readdir(path, { withFileTypes: true })).toSorted((a, b) => (a.name < b.name ? -1 : 1));
    for (const entry of entries) {
      if (entry.isDirectory() || entry.isFile()) await visit(join(path, entry.name), `${to}/${entry.name}`);
      else hash.update(JSON.stringify([to, entry.name]));
    }
  };
  for (const { from, to } of parts) await visit(from, to);
  return hash.digest("hex").slice(0, 16);
}
