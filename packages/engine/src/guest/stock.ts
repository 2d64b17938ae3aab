import { createHash } from "node:crypto";
import { chmod, mkdir, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { gunzipSync, zstdDecompressSync } from "node:zlib";
import { BulkheadError } from "@bulkhead/contract";
import { runChecked } from "../system/process.ts";
import { extractVmlinux } from "./bzimage.ts";
import { kernelRelease, recorded, recordKernel, type KernelRecord } from "./kernel-index.ts";
import { GUEST_MODULES, LOAD_LIST, modulesInOrder, type KernelModule, type ReadModule } from "./modules.ts";
import {
  aptCandidate,
  askApt,
  CLEAN_ENV,
  downloadPackage,
  exists,
  guestHome,
  lockGuestHome,
  makeScratch,
  STEP_TIMEOUT_MS,
  syncFiles,
  type Run,
} from "./workshop.ts";

/** Always depends on the kernel that Debian has for virtual machines at present. */
const META_PACKAGE = "linux-image-cloud-amd64";
/** Raised when the way of unpacking changes. */
const RECIPE = 1;
/** Debian packages whose tools are used below. */
export const STOCK_KERNEL_PACKAGES = ["binutils", "xz-utils"] as const;
const MODULE_MAX_BYTES = 64 * 1024 * 1024;

export type StockPhase = "wait" | "download" | "unpack" | "extract" | "done";

export interface StockKernelOptions {
  /** Root of Bulkhead's lasting state; the kernel is kept in `guest/stock-<hash>` below it. */
  readonly stateDir: string;
  readonly signal?: AbortSignal;
  readonly onPhase?: (phase: StockPhase) => void;
}

interface StockPackage {
  readonly name: string;
  readonly version: string;
}

/**
 * Debian's cloud kernel as a guest kernel: unpacked from its package, never installed, and recorded in the index. Takes
 * seconds where our own takes minutes to build, and takes twice as long at every start.
 *
 * @throws BulkheadError HOST_UNSUPPORTED when apt knows no such package, RUNTIME_FAILED, TIMEOUT, ABORTED
 */
export async function takeStockKernel(
  options: StockKernelOptions,
): Promise<KernelRecord & { readonly taken: boolean }> {
  const { stateDir, signal } = options;
  const phase = options.onPhase ?? (() => {});
  const home = await guestHome(stateDir);
  const from = await stockPackage(signal);
  const hash = createHash("sha256")
    .update(JSON.stringify([RECIPE, from.name, from.version, GUEST_MODULES]))
    .digest("hex");
  const target = join(home, `stock-${hash}`);
  const vmlinux = join(target, "vmlinux");
  const found = await recorded(stateDir, vmlinux);
  if (found?.hash === hash) return { ...found, taken: false };
  await using _lock = await lockGuestHome(home, { onWait: () => phase("wait"), ...(signal && { signal }) });
  const taken = !(await exists(target));
  if (taken) {
    await using scratch = await makeScratch(home);
    await rename(await take(from, scratch.path, phase, signal), target);
  }
  const release = kernelRelease(await readFile(vmlinux));
  const record: KernelRecord = { kind: "stock", vmlinux, modules: join(target, "modules"), release, hash };
  await recordKernel(stateDir, record);
  phase("done");
  return { ...record, taken };
}

async function stockPackage(signal?: AbortSignal): Promise<StockPackage> {
  const version = await aptCandidate(META_PACKAGE, signal);
  const about = version === null ? "" : await askApt(["apt-cache", "show", `${META_PACKAGE}=${version}`], signal);
  const depends = /^Depends:.*?\b(linux-image-[\w.+-]+) \(= ([\w.+:~-]+)\)/m.exec(about);
  if (depends?.[1] !== undefined && depends[2] !== undefined) return { name: depends[1], version: depends[2] };
  throw new BulkheadError("HOST_UNSUPPORTED", {
    what: `Debian package ${META_PACKAGE} is not known to apt`,
    next: "run apt-get update on a Debian machine with x86-64 processors",
  });
}

/** Returns a directory inside `scratch` with all that is kept. */
async function take(
  from: StockPackage,
  scratch: string,
  phase: (phase: StockPhase) => void,
  signal?: AbortSignal,
): Promise<string> {
  const common = {
    failure: "RUNTIME_FAILED",
    timeoutMs: STEP_TIMEOUT_MS,
    env: CLEAN_ENV,
    ...(signal && { signal }),
  } as const;
  const run: Run = (argv, cwd) => runChecked(["setpriv", "--pdeathsig", "KILL", ...argv], { ...common, cwd });
  phase("download");
  const deb = await downloadPackage(from.name, from.version, scratch, run);
  phase("unpack");
  await run(["dpkg-deb", "-x", deb, "package"], scratch);
  phase("extract");
  const release = from.name.replace(/^linux-image-(?:unsigned-)?/, "");
  const unpackXz = async (data: Buffer): Promise<Buffer> => {
    const part = join(scratch, "part");
    await writeFile(`${part}.xz`, data);
    await run(["xz", "--decompress", "--force", `${part}.xz`], scratch);
    return readFile(part);
  };
  const vmlinux = await extractVmlinux(await readFile(join(scratch, "package/boot", `vmlinuz-${release}`)), unpackXz);
  const tree = await modulesTree(join(scratch, "package"), release);
  const modules = await modulesInOrder(tree, GUEST_MODULES, moduleReader(unpackXz));
  const result = join(scratch, "result");
  await mkdir(join(result, "modules"), { recursive: true, mode: 0o755 });
  await writeFile(join(result, "vmlinux"), vmlinux);
  // Nobody writes to it, and the virtual machine's own user reads it.
  await chmod(join(result, "vmlinux"), 0o444);
  await writeModules(join(result, "modules"), modules, run);
  await writeFile(join(result, "inputs.json"), `${JSON.stringify({ recipe: RECIPE, ...from }, null, 2)}\n`);
  await syncFiles(result, ["vmlinux", "inputs.json"]);
  return result;
}

/** Newer packages have what is in `/lib` in `/usr/lib`. */
async function modulesTree(root: string, release: string): Promise<string> {
  const [usr, plain] = [join(root, "usr/lib/modules", release), join(root, "lib/modules", release)];
  return (await exists(usr)) ? usr : plain;
}

function moduleReader(unpackXz: (data: Buffer) => Promise<Buffer>): ReadModule {
  const options = { maxOutputLength: MODULE_MAX_BYTES };
  return async ({ path, packed }) => {
    const data = await readFile(path);
    switch (packed) {
      case "":
        return data;
      case "xz":
        return unpackXz(data);
      case "zst":
        return zstdDecompressSync(data, options);
      case "gz":
        return gunzipSync(data, options);
    }
  };
}

/** What only debuggers and BPF read of a module is half of it, and every guest would keep it in memory while it starts. */
async function writeModules(dir: string, modules: readonly KernelModule[], run: Run): Promise<void> {
  for (const { name, data } of modules) {
    const file = join(dir, `${name}.ko`);
    await writeFile(file, data);
    await run(["strip", "--strip-debug", "--remove-section=.BTF", file], dir);
  }
  await writeFile(join(dir, LOAD_LIST), modules.map(({ name }) => `${name}.ko\n`).join(""));
  await syncFiles(
    dir,
    (await readdir(dir)).map((path) => basename(path)),
  );
}
