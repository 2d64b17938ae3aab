import { createHash } from "node:crypto";
import { access, chmod, copyFile, mkdir, mkdtemp, readFile, realpath, rename } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileKey, writeAtomically } from "../../host/file-cache.ts";
import { lockFile } from "../../system/file-lock.ts";
import { runChecked } from "../../system/process.ts";
import { removeTree } from "../../system/remove-tree.ts";

/** Raised when the layout changes. */
const LAYOUT = 3;
const SCRATCH_PREFIX = ".making-";
const LDD_TIMEOUT_MS = 30_000;
const FIRMWARE = "/usr/share/qemu/qboot.rom";
/** Debian ships the emulator as a module beside the binary's libraries; KVM is in the binary, and in ours both are. */
const TCG_MODULE = "/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so";
/** What the loader goes by when it looks for libraries. */
const LOADER_CACHE = "/etc/ld.so.cache";
/** Where things are in the jail; the empty ones are mounted over. */
export const JAIL = {
  binary: "/usr/bin/qemu",
  root: "/vm/root.erofs",
  control: "/vm/control",
  shared: "/vm/shared",
  kernel: "/vm/kernel",
  initramfs: "/vm/initramfs",
} as const;
const EMPTY_DIRECTORIES = ["dev", "proc", "vm/control", "vm/shared"];
const EMPTY_FILES = [JAIL.root, JAIL.kernel, JAIL.initramfs];

/**
 * The read-only root that every jailed QEMU has: the program, its libraries, its firmware, and nothing that could be
 * started or read besides. Made once per QEMU build and kept in `<state>/guest/jail/<digest>`.
 *
 * @returns the directory
 * @throws BulkheadError HOST_UNSUPPORTED, ABORTED
 */
export async function jailRoot(stateDir: string, binary: string, signal?: AbortSignal): Promise<string> {
  const home = join(stateDir, "guest", "jail");
  const record = join(stateDir, "cache", `jail-${createHash("sha256").update(binary).digest("hex").slice(0, 16)}.json`);
  const known = await remembered(record, binary);
  if (known !== null && (await exists(join(home, known)))) return join(home, known);
  const libraries = await librariesOf(binary, signal);
  // Before the files are read: what changes meanwhile is found changed by the next process.
  const key = await keyOf(binary, libraries);
  const files = await jailFiles(binary, libraries);
  const digest = await digestOf(files);
  const target = join(home, digest);
  if (!(await exists(target))) await makeRoot(home, target, files, signal);
  await writeAtomically(record, JSON.stringify({ libraries, key, digest })).catch(() => undefined);
  return target;
}

/** To ask the loader and to read 60 MB takes longer than to start a guest: done again only when a file or what leads to it changed. */
interface Remembered {
  /** As the loader names them, before links are followed. */
  readonly libraries: readonly string[];
  readonly key: string;
  readonly digest: string;
}

async function remembered(record: string, binary: string): Promise<string | null> {
  try {
    const { libraries, key, digest } = JSON.parse(await readFile(record, "utf8")) as Remembered;
    return key === (await keyOf(binary, libraries)) ? digest : null;
  } catch {
    return null;
  }
}

async function keyOf(binary: string, libraries: readonly string[]): Promise<string> {
  const keys = [binary, TCG_MODULE, FIRMWARE, LOADER_CACHE, ...libraries].map((path) =>
    fileKey(path).catch(() => "none"),
  );
  return createHash("sha256")
    .update(JSON.stringify([LAYOUT, ...(await Promise.all(keys))]))
    .digest("hex");
}

async function makeRoot(
  home: string,
  target: string,
  files: readonly JailFile[],
  signal: AbortSignal | undefined,
): Promise<void> {
  await mkdir(home, { recursive: true, mode: 0o755 });
  await using _lock = await lockFile(join(home, "lock"), signal === undefined ? {} : { signal });
  if (await exists(target)) return;
  const scratch = await mkdtemp(join(home, SCRATCH_PREFIX));
  await using cleanup = new AsyncDisposableStack();
  cleanup.defer(() => removeTree(scratch, home));
  for (const { source, path } of files) {
    await mkdir(dirname(join(scratch, path)), { recursive: true, mode: 0o755 });
    await copyFile(source, join(scratch, path));
    // Root's, and readable for the jail's own user.
    await chmod(join(scratch, path), 0o555);
  }
  for (const path of EMPTY_DIRECTORIES) await mkdir(join(scratch, path), { recursive: true, mode: 0o755 });
  for (const path of EMPTY_FILES) await copyFile("/dev/null", join(scratch, path));
  await chmod(scratch, 0o755);
  await rename(scratch, target);
}

interface JailFile {
  readonly source: string;
  /** Inside the jail. */
  readonly path: string;
}

const modulesOf = async (): Promise<readonly string[]> => ((await exists(TCG_MODULE)) ? [TCG_MODULE] : []);

/** None of a program that has them in it, as ours has. */
async function librariesOf(binary: string, signal?: AbortSignal): Promise<readonly string[]> {
  const own = await listed([binary], signal);
  return own.length === 0 ? own : await listed([binary, ...(await modulesOf())], signal);
}

async function listed(files: readonly string[], signal?: AbortSignal): Promise<readonly string[]> {
  const { stdout } = await runChecked(["ldd", ...files], {
    failure: "HOST_UNSUPPORTED",
    next: "apt-get install qemu-system-x86",
    timeoutMs: LDD_TIMEOUT_MS,
    ...(signal && { signal }),
  });
  // "libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x...)" and the loader, "/lib64/ld-linux-x86-64.so.2 (0x...)".
  const libraries = stdout.split("\n").flatMap((line) => /(\/\S+) \(0x/.exec(line)?.[1] ?? []);
  return [...new Set(libraries)];
}

async function jailFiles(binary: string, libraries: readonly string[]): Promise<readonly JailFile[]> {
  const modules = libraries.length === 0 ? [] : await modulesOf();
  const result: JailFile[] = [
    { source: binary, path: JAIL.binary },
    { source: await realpath(FIRMWARE), path: FIRMWARE },
    ...modules.map((source) => ({ source, path: source })),
  ];
  for (const library of libraries) {
    const path = library.startsWith("/lib64/") ? library : `/usr/lib/x86_64-linux-gnu/${basename(library)}`;
    result.push({ source: await realpath(library), path });
  }
  return result;
}

async function digestOf(files: readonly JailFile[]): Promise<string> {
  const hash = createHash("sha256").update(JSON.stringify([LAYOUT, files.map((file) => file.path)]));
  for (const { source } of files) hash.update(await readFile(source));
  return hash.digest("hex");
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
