import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readFile, readdir, rename, stat, utimes, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { lockFile } from "../../system/file-lock.ts";
import { removeTree } from "../../system/remove-tree.ts";
import type { Help } from "../driver.ts";
import { BareGuest } from "./boot.ts";
import type { Boot, Machine } from "./qemu.ts";

const SCRATCH_PREFIX = ".making-";
/** Says that a template was asked for once; a start that comes soon after makes it. */
const WISH_PREFIX = ".wished-";
/** Each is some 50 MB on disk; sizes that are asked for once must not pile up. */
const KEPT = 12;
/** Another version of Bulkhead may run beside this one; what it used within that time it may be about to use again. */
const IN_USE_MS = 10 * 60_000;

/** All that a template is bound to. One that differs in anything is another template. */
export interface TemplateKey {
  readonly bootId: string;
  readonly qemu: string;
  readonly kernel: string;
  readonly agent: string;
  readonly cpuModel: string;
  readonly accelerator: Machine["accelerator"];
  readonly argv: string;
  readonly memoryMib: number;
  readonly cpus: number;
  /** Its clones see host directories. */
  readonly sharing: boolean;
  /** Null: a guest that knows no image. */
  readonly root: Root | null;
}

/** What a guest has mounted and been limited to, where it has its root file system already. */
export interface Root {
  /** Digests of the image and of the file that it is on. */
  readonly image: string;
  readonly imageFile: string;
  /** Names the empty file system that is written to. */
  readonly scratch: string;
  readonly pids: number;
  readonly memoryBytes: number;
  readonly resolver: string;
}

export interface TemplateFiles {
  readonly memory: string;
  readonly state: string;
}

const home = (stateDir: string): string => join(stateDir, "templates");

function directory(stateDir: string, key: TemplateKey): string {
  return join(home(stateDir), createHash("sha256").update(JSON.stringify(key)).digest("hex"));
}

export function templateFiles(stateDir: string, key: TemplateKey): TemplateFiles {
  const dir = directory(stateDir, key);
  return { memory: join(dir, "mem"), state: join(dir, "state") };
}

/**
 * Boots the guest that all clones start from, when there is none of that key. It appears by one rename when it is whole;
 * what a builder that was killed left goes when the next one builds, and so do templates that nothing here matches any more.
 *
 * @throws BulkheadError RUNTIME_FAILED, TIMEOUT, HOST_RESOURCE, ABORTED
 */
export async function ensureTemplate(
  stateDir: string,
  key: TemplateKey,
  binary: string,
  boot: Boot,
  help: Help,
): Promise<void> {
  const target = directory(stateDir, key);
  if (await used(target)) return;
  const above = home(stateDir);
  await mkdir(above, { recursive: true, mode: 0o700 });
  const { signal, onProgress } = help;
  const onWait = (): void => onProgress?.("waiting for another process that boots the template");
  await using _lock = await lockFile(join(above, "lock"), { onWait, ...(signal && { signal }) });
  await make(target, key, async (scratch) => {
    onProgress?.("booting the guest that microVMs are cloned from");
    const { accelerator, memoryMib, cpus, sharing } = key;
    const machine = { binary, accelerator, kernel: boot.kind, memoryMib, cpus, consoleFd: null };
    await using guest = await BareGuest.boot(machine, boot, join(scratch, "mem"), { sharing, signal });
    await guest.save(join(scratch, "state"));
  });
}

/**
 * A template that has its root already, when it is worth having: it is made by the second start that could use it. Who comes
 * while another process makes one does not wait.
 *
 * @param save writes its files into a directory of root's alone
 * @returns where it is, or null for none
 * @throws what `save` does; BulkheadError HOST_RESOURCE, HOST_UNSUPPORTED, ABORTED
 */
export async function wishForRooted(
  stateDir: string,
  key: TemplateKey & { readonly root: Root },
  save: (dir: string) => Promise<void>,
  signal?: AbortSignal,
): Promise<string | null> {
  const target = directory(stateDir, key);
  if (await used(target)) return target;
  const above = home(stateDir);
  const wish = join(above, `${WISH_PREFIX}${basename(target)}`);
  if (!(await used(wish))) {
    await mkdir(wish, { recursive: true, mode: 0o700 });
    return null;
  }
  const busy = new BulkheadError("HOST_RESOURCE", { what: "another process makes a template" });
  try {
    await using _lock = await lockFile(join(above, "lock"), { busy: () => busy, ...(signal && { signal }) });
    await make(target, key, save);
  } catch (error) {
    if (error === busy) return null;
    throw error;
  } finally {
    await removeTree(wish, above);
  }
  return target;
}

/** Only called under the lock. It appears by one rename when it is whole. */
async function make(target: string, key: TemplateKey, save: (scratch: string) => Promise<void>): Promise<void> {
  if (await used(target)) return;
  const above = dirname(target);
  await sweep(above, key);
  const scratch = await mkdtemp(join(above, SCRATCH_PREFIX));
  await using cleanup = new AsyncDisposableStack();
  cleanup.defer(() => removeTree(scratch, above));
  await save(scratch);
  await writeFile(join(scratch, "key.json"), JSON.stringify(key), { mode: 0o600 });
  await rename(scratch, target);
}

/** Only called under the lock: whoever made what is half there is dead. */
async function sweep(above: string, key: TemplateKey): Promise<void> {
  const kept: { readonly path: string; readonly at: number }[] = [];
  for (const name of await readdir(above)) {
    const path = join(above, name);
    if (name === "lock") continue;
    const at = name.startsWith(SCRATCH_PREFIX) ? 0 : (await stat(path)).mtimeMs;
    if (name.startsWith(WISH_PREFIX) && at > Date.now() - IN_USE_MS) continue;
    if (at > Date.now() - IN_USE_MS || (at > 0 && (await matches(join(path, "key.json"), key))))
      kept.push({ path, at });
    else await removeTree(path, above);
  }
  const surplus = kept.toSorted((a, b) => b.at - a.at).slice(KEPT - 1);
  for (const { path } of surplus) await removeTree(path, above);
}

/** Whether it differs from `key` at most in what a request chooses: the guest's size, its root, and whether it sees host directories. */
async function matches(path: string, key: TemplateKey): Promise<boolean> {
  try {
    const other = JSON.parse(await readFile(path, "utf8")) as TemplateKey;
    const { memoryMib, cpus, sharing, root } = key;
    return JSON.stringify({ ...other, memoryMib, cpus, sharing, root }) === JSON.stringify(key);
  } catch {
    return false;
  }
}

/** Whether it is there; if so it is now the one used last. */
async function used(target: string): Promise<boolean> {
  const now = new Date();
  return utimes(target, now, now).then(
    () => true,
    () => false,
  );
}
