import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";

/** What a guest needs before it can be told anything and mount its root, and what programs inside may ask for. */
export const GUEST_MODULES: readonly string[] = [
  ...["virtio_mmio", "virtio_console", "virtio_blk"],
  ...["erofs", "overlay", "ext4", "fuse", "tun"],
];
/** Needed by others without their saying so; built in in some releases. */
const FIRST_IF_THERE: readonly string[] = ["crc32c_generic"];
/** Lists the modules in order, one file name a line; the agent reads it. */
export const LOAD_LIST = "load";
const MODULE_FILE = /^(?<name>[\w-]+)\.ko(?<packed>\.(?:xz|zst|gz))?$/;
const MODULE_NAME = /^[\w-]+$/;

export interface ModuleFile {
  /** With underscores, as the kernel calls it. */
  readonly name: string;
  readonly path: string;
  readonly packed: "" | "xz" | "zst" | "gz";
}

/** The module as an ELF object. */
export type ReadModule = (file: ModuleFile) => Promise<Buffer>;

export interface KernelModule {
  readonly name: string;
  readonly data: Buffer;
}

/**
 * The modules named and what they depend on, each behind what it needs. What is built into the kernel needs none.
 *
 * @param tree `lib/modules/<release>` of an unpacked kernel package
 * @throws BulkheadError RUNTIME_FAILED when the kernel has one neither as a module nor built in
 */
export async function modulesInOrder(
  tree: string,
  wanted: readonly string[],
  read: ReadModule,
): Promise<readonly KernelModule[]> {
  const files = await moduleFiles(tree);
  const builtIn = new Set((await readFile(join(tree, "modules.builtin"), "utf8")).split("\n").map(moduleName));
  const done = new Map<string, KernelModule | null>();
  const add = async (name: string, because: string): Promise<void> => {
    if (done.has(name) || builtIn.has(name)) return;
    const file = files.get(name);
    if (file === undefined) {
      throw new BulkheadError("RUNTIME_FAILED", {
        what: `this kernel has no module ${name}`,
        why: `${because} needs it`,
        next: "build the guest kernel instead: bulkhead setup microvm",
      });
    }
    // Marked before its dependencies are looked at: a circle ends here.
    done.set(name, null);
    const data = await read(file);
    for (const dependency of dependencies(file, data)) await add(dependency, name);
    done.delete(name);
    done.set(name, { name, data });
  };
  for (const name of FIRST_IF_THERE) if (files.has(name)) await add(name, "a guest");
  for (const name of wanted) await add(name, "a guest");
  return [...done.values()].filter((module) => module !== null);
}

/**
 * Modules as they were kept, in the order in which they are to be loaded.
 *
 * @throws BulkheadError HOST_RESOURCE when the directory is damaged
 */
export async function readModules(dir: string): Promise<readonly KernelModule[]> {
  try {
    const names = (await readFile(join(dir, LOAD_LIST), "utf8")).split("\n").filter((line) => line !== "");
    const modules = names.map(async (file): Promise<KernelModule> => {
      const name = MODULE_FILE.exec(file)?.groups?.["name"];
      if (name === undefined) throw new RangeError(`${JSON.stringify(file)} is no module's name`);
      return { name, data: await readFile(join(dir, file)) };
    });
    return await Promise.all(modules);
  } catch (cause) {
    throw new BulkheadError("HOST_RESOURCE", {
      what: `the guest kernel's modules in ${dir} cannot be read`,
      why: cause instanceof Error ? cause.message : String(cause),
      next: "make them again with bulkhead setup microvm --stock-kernel",
      cause,
    });
  }
}

async function moduleFiles(tree: string): Promise<ReadonlyMap<string, ModuleFile>> {
  const found = new Map<string, ModuleFile>();
  for (const entry of await readdir(join(tree, "kernel"), { recursive: true, withFileTypes: true })) {
    const match = MODULE_FILE.exec(entry.name);
    if (!entry.isFile() || match === null) continue;
    const name = moduleName(entry.name);
    const packed = (match.groups?.["packed"] ?? "").slice(1) as ModuleFile["packed"];
    found.set(name, { name, path: join(entry.parentPath, entry.name), packed });
  }
  return found;
}

/** From a file name; the kernel takes `-` and `_` for the same. */
function moduleName(path: string): string {
  return (MODULE_FILE.exec(basename(path))?.groups?.["name"] ?? "").replaceAll("-", "_");
}

/** `depends=virtio,virtio_ring` among the strings that a module says about itself. */
function dependencies(file: ModuleFile, data: Buffer): readonly string[] {
  const key = "\0depends=";
  const at = data.indexOf(key, 0, "latin1");
  const end = data.indexOf(0, at + key.length);
  const names = at < 0 || end < 0 ? null : data.toString("latin1", at + key.length, end).split(",");
  const given = names?.filter((name) => name !== "");
  if (given?.every((name) => MODULE_NAME.test(name)) === true) return given.map((name) => name.replaceAll("-", "_"));
  throw new BulkheadError("RUNTIME_FAILED", { what: `${file.path} does not say which modules it depends on` });
}
