import { createHash } from "node:crypto";
import { access, chmod, copyFile, mkdir, mkdtemp, open, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { lockFile } from "../system/file-lock.ts";
import { runChecked, runProgram } from "../system/process.ts";
import { removeTree } from "../system/remove-tree.ts";
import { setCurrentKernel } from "./current.ts";
import { KernelMeter, type OnKernelProgress } from "./kernel-meter.ts";

/** Debian 12's source package; another suite's would need the configuration to be looked at again. */
const SOURCE_PACKAGE = "linux-source-6.1";
/** Raised when the way of building changes, so that kernels built before are not taken for the same. */
const RECIPE = 1;
const TOOLS = ["apt-get", "bc", "bison", "dpkg-deb", "flex", "gcc", "ld", "make", "strip", "tar", "xz"] as const;
/** objtool, which the build runs over every object, is linked with libelf. */
const LIBELF_HEADER = "/usr/include/gelf.h";
/** Debian packages that bring all of the above. */
export const KERNEL_BUILD_PACKAGES = [
  "bc",
  "bison",
  "flex",
  "gcc",
  "libc6-dev",
  "libelf-dev",
  "make",
  "xz-utils",
] as const;
/** Four minutes on two idle cores at the lowest priority; a machine ten times as busy still gets there. */
const BUILD_TIMEOUT_MS = 60 * 60_000;
const STEP_TIMEOUT_MS = 10 * 60_000;
/** The source tree takes 1.4 GB, the objects 0.2. */
const SCRATCH_PREFIX = ".building-";
const CLEAN_ENV = { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C.UTF-8" };
/** Lowest priority: a build in the background is not felt. */
const GENTLY = ["nice", "-n", "19", "ionice", "-c", "3"] as const;

export interface KernelInputs {
  /** The configuration fragment's text. */
  readonly config: string;
  readonly sourceVersion: string;
  readonly compiler: string;
  readonly linker: string;
}

export interface GuestKernel {
  /** An ELF file that starts by PVH. */
  readonly path: string;
  /** sha256 of all inputs, hex. */
  readonly inputsDigest: string;
  /** False when it was there already. */
  readonly built: boolean;
}

export interface BuildKernelOptions {
  /** Root of Bulkhead's lasting state; the kernel is kept in `guest/<inputs digest>/vmlinux` below it. */
  readonly stateDir: string;
  /** `guest/kernel.config` of this repository. */
  readonly configPath: string;
  readonly jobs?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: OnKernelProgress;
}

/** Equal inputs give the same digest on every machine. */
export function kernelInputsDigest(inputs: KernelInputs): string {
  const { config, sourceVersion, compiler, linker } = inputs;
  return createHash("sha256")
    .update(JSON.stringify([RECIPE, config, sourceVersion, compiler, linker]))
    .digest("hex");
}

/** Lines of the fragment that `.config` does not fulfil: a dependency is missing, or something else selects them. */
export function unfulfilled(fragment: string, config: string): readonly string[] {
  const have = new Map(config.split("\n").flatMap((line) => assignment(line)));
  return fragment
    .split("\n")
    .flatMap((line) => assignment(line))
    .filter(([name, value]) => (have.get(name) ?? "n") !== value)
    .map(([name, value]) => `${name}=${value}`);
}

function assignment(line: string): readonly (readonly [string, string])[] {
  const match = /^(CONFIG_\w+)=(.*)$/.exec(line);
  return match === null ? [] : [[match[1] ?? "", match[2] ?? ""]];
}

/**
 * Returns the guest kernel, built first when it is not there. Calls at the same time build once. A build that is killed
 * leaves a scratch directory that the next one removes, and no kernel.
 *
 * @throws BulkheadError HOST_UNSUPPORTED when a tool or package is missing, RUNTIME_FAILED when the build fails, TIMEOUT,
 * ABORTED
 */
export async function buildGuestKernel(options: BuildKernelOptions): Promise<GuestKernel> {
  const kernel = await foundOrBuilt(options);
  await setCurrentKernel(options.stateDir, kernel.inputsDigest);
  return kernel;
}

async function foundOrBuilt(options: BuildKernelOptions): Promise<GuestKernel> {
  const { signal } = options;
  const meter = new KernelMeter(options.onProgress ?? (() => {}));
  const home = join(options.stateDir, "guest");
  await mkdir(home, { recursive: true, mode: 0o755 });
  const inputs = await kernelInputs(options.configPath, signal);
  const inputsDigest = kernelInputsDigest(inputs);
  const path = join(home, inputsDigest, "vmlinux");
  if (await exists(path)) return { path, inputsDigest, built: false };

  await using _lock = await lockFile(join(home, "lock"), {
    onWait: () => meter.phase("wait"),
    ...(signal && { signal }),
  });
  if (await exists(path)) return { path, inputsDigest, built: false };
  await sweep(home);
  await requireTools();
  const scratch = await mkdtemp(join(home, SCRATCH_PREFIX));
  await using cleanup = new AsyncDisposableStack();
  cleanup.defer(() => removeTree(scratch, home));
  await compile(scratch, inputs, meter, options);
  await keep(scratch, join(home, inputsDigest), inputs);
  meter.phase("done");
  return { path, inputsDigest, built: true };
}

/** What decides which kernel comes out. Quick: nothing is downloaded. */
export async function kernelInputs(configPath: string, signal?: AbortSignal): Promise<KernelInputs> {
  const ask = async (argv: readonly string[]): Promise<string> => {
    const options = { timeoutMs: STEP_TIMEOUT_MS, env: CLEAN_ENV, ...(signal && { signal }) };
    return (await runChecked(argv, { ...options, failure: "HOST_UNSUPPORTED", next: toolsHint() })).stdout;
  };
  const [config, policy, compiler, linker] = await Promise.all([
    readFile(configPath, "utf8"),
    ask(["apt-cache", "policy", SOURCE_PACKAGE]),
    ask(["gcc", "--version"]),
    ask(["ld", "--version"]),
  ]);
  const sourceVersion = /Candidate: (\S+)/.exec(policy)?.[1] ?? "(none)";
  if (sourceVersion === "(none)") {
    throw new BulkheadError("HOST_UNSUPPORTED", {
      what: `Debian package ${SOURCE_PACKAGE} is not known to apt`,
      next: "run apt-get update on a Debian 12 machine, or use Debian's stock cloud kernel",
    });
  }
  return { config, sourceVersion, compiler: firstLine(compiler), linker: firstLine(linker) };
}

async function compile(
  scratch: string,
  inputs: KernelInputs,
  meter: KernelMeter,
  options: BuildKernelOptions,
): Promise<void> {
  const run = (argv: readonly string[], cwd: string, onLine?: (line: string) => void): Promise<unknown> =>
    runChecked(["setpriv", "--pdeathsig", "KILL", ...GENTLY, ...argv], {
      failure: "RUNTIME_FAILED",
      timeoutMs: BUILD_TIMEOUT_MS,
      env: CLEAN_ENV,
      cwd,
      ...(onLine && { onLine }),
      ...(options.signal && { signal: options.signal }),
    });
  const [tree, out] = [join(scratch, "tree"), join(scratch, "out")];
  await mkdir(tree);
  await mkdir(out);
  meter.phase("download");
  // The scratch directory is root's, which apt's own unprivileged user could not write to.
  const asRoot = ["-o", "APT::Sandbox::User=root"];
  await run(["apt-get", ...asRoot, "download", `${SOURCE_PACKAGE}=${inputs.sourceVersion}`], scratch);
  meter.phase("unpack");
  const deb = (await readdir(scratch)).find((name) => name.endsWith(".deb")) ?? "";
  await run(["dpkg-deb", "-x", deb, "package"], scratch);
  const archive = join(scratch, `package/usr/src/${SOURCE_PACKAGE}.tar.xz`);
  await run(["tar", "-xJf", archive, "-C", tree, "--strip-components=1"], scratch);
  meter.phase("configure");
  const fragment = join(scratch, "fragment");
  await writeFile(fragment, inputs.config);
  const make = ["make", `O=${out}`, "KBUILD_BUILD_USER=bulkhead", "KBUILD_BUILD_HOST=guest"];
  // No time of building in the file: equal inputs give equal bytes.
  const reproducible = ["KBUILD_BUILD_TIMESTAMP=1970-01-01"];
  await run([...make, `KCONFIG_ALLCONFIG=${fragment}`, "allnoconfig"], tree);
  const lost = unfulfilled(inputs.config, await readFile(join(out, ".config"), "utf8"));
  if (lost.length > 0) {
    throw new BulkheadError("RUNTIME_FAILED", {
      what: `${options.configPath} asks for what ${SOURCE_PACKAGE} ${inputs.sourceVersion} does not give`,
      why: lost.join(" "),
    });
  }
  meter.phase("compile");
  const jobs = `-j${options.jobs ?? availableParallelism()}`;
  await run([...make, ...reproducible, jobs, "vmlinux"], tree, (line) => meter.line(line));
  await run(["strip", "-s", "-o", join(scratch, "vmlinux"), join(out, "vmlinux")], scratch);
}

/** The directory appears whole or not at all. */
async function keep(scratch: string, target: string, inputs: KernelInputs): Promise<void> {
  const result = join(scratch, "result");
  await mkdir(result, { mode: 0o755 });
  await copyFile(join(scratch, "vmlinux"), join(result, "vmlinux"));
  // Nobody writes to it, and the virtual machine's own user reads it.
  await chmod(join(result, "vmlinux"), 0o444);
  await copyFile(join(scratch, "out/.config"), join(result, "config"));
  const { config: _, ...rest } = inputs;
  await writeFile(join(result, "inputs.json"), `${JSON.stringify({ recipe: RECIPE, ...rest }, null, 2)}\n`);
  for (const name of ["vmlinux", "config", "inputs.json"]) {
    await using file = await open(join(result, name), "r");
    await file.sync();
  }
  await rename(result, target);
}

/** Only called under the lock: whoever made what is found is dead. */
async function sweep(home: string): Promise<void> {
  for (const name of await readdir(home)) {
    if (name.startsWith(SCRATCH_PREFIX)) await removeTree(join(home, name), home);
  }
}

async function requireTools(): Promise<void> {
  const found = await runProgram(["sh", "-c", `for tool; do command -v "$tool"; done; true`, "sh", ...TOOLS], {
    timeoutMs: STEP_TIMEOUT_MS,
    env: CLEAN_ENV,
  });
  const have = new Set(found.stdout.split("\n").map((path) => path.slice(path.lastIndexOf("/") + 1)));
  const missing: string[] = TOOLS.filter((tool) => !have.has(tool));
  if (!(await exists(LIBELF_HEADER))) missing.push(LIBELF_HEADER);
  if (missing.length === 0) return;
  throw new BulkheadError("HOST_UNSUPPORTED", {
    what: `building the guest kernel needs ${missing.join(", ")}`,
    next: toolsHint(),
  });
}

function toolsHint(): string {
  return `apt-get install ${KERNEL_BUILD_PACKAGES.join(" ")}`;
}

function firstLine(text: string): string {
  return text.split("\n", 1)[0] ?? "";
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
