import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readFile, readdir, rename, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { lockFile } from "../../system/file-lock.ts";
import { removeTree } from "../../system/remove-tree.ts";
import type { Help } from "../driver.ts";
import { BareGuest } from "./boot.ts";
import type { Boot, Machine } from "./qemu.ts";

const SCRATCH_PREFIX = ".making-";
/** Each is some 40 MB on disk; sizes that are asked for once must not pile up. */
const KEPT = 8;
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
  if (await used(target)) return;
  await sweep(above, key);
  onProgress?.("booting the guest that microVMs are cloned from");
  const scratch = await mkdtemp(join(above, SCRATCH_PREFIX));
  await using cleanup = new AsyncDisposableStack();
  cleanup.defer(() => removeTree(scratch, above));
  const { accelerator, memoryMib, cpus, sharing } = key;
  const machine = { binary, accelerator, kernel: boot.kind, memoryMib, cpus, consoleFd: null };
  await using guest = await BareGuest.boot(machine, boot, join(scratch, "mem"), { sharing, signal });
  await guest.save(join(scratch, "state"));
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
    if (at > Date.now() - IN_USE_MS || (at > 0 && (await matches(join(path, "key.json"), key))))
      kept.push({ path, at });
    else await removeTree(path, above);
  }
  const surplus = kept.toSorted((a, b) => b.at - a.at).slice(KEPT - 1);
  for (const { path } of surplus) await removeTree(path, above);
}

/** Whether it differs from `key` at most in what a request chooses: the guest's size, and whether it sees host directories. */
async function matches(path: string, key: TemplateKey): Promise<boolean> {
  try {
    const other = JSON.parse(await readFile(path, "utf8")) as TemplateKey;
    const { memoryMib, cpus, sharing } = key;
    return JSON.stringify({ ...other, memoryMib, cpus, sharing }) === JSON.stringify(key);
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
