import { createHash } from "node:crypto";
import { chmod, copyFile, mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { runChecked } from "../system/process.ts";
import { BuildMeter, countedLines, type OnBuildProgress } from "./build-meter.ts";
import { kernelRelease, recorded, recordKernel } from "./kernel-index.ts";
import {
  aptCandidate,
  CLEAN_ENV,
  downloadPackage,
  exists,
  firstLine,
  guestHome,
  lockGuestHome,
  makeScratch,
  needTools,
  STEP_TIMEOUT_MS,
  stepRunner,
  syncFiles,
} from "./workshop.ts";

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
/** Lines like `  CC      kernel/fork.o` of a whole build, counted once; another compiler or kernel differs a little. */
const STEP = /^ {2}[A-Z][A-Z0-9]* +\S/;
const EXPECTED_STEPS = 1436;

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
  readonly onProgress?: OnBuildProgress;
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
 * Returns the guest kernel, built first when it is not there, and records it in the index. Calls at the same time build
 * once. A build that is killed leaves a scratch directory that the next one removes, and no kernel.
 *
 * @throws BulkheadError HOST_UNSUPPORTED when a tool or package is missing, RUNTIME_FAILED when the build fails, TIMEOUT,
 * ABORTED
 */
export async function buildGuestKernel(options: BuildKernelOptions): Promise<GuestKernel> {
  const { signal } = options;
  const meter = new BuildMeter(countedLines(STEP, EXPECTED_STEPS), options.onProgress);
  const home = await guestHome(options.stateDir);
  const inputs = await kernelInputs(options.configPath, signal);
  const inputsDigest = kernelInputsDigest(inputs);
  const path = join(home, inputsDigest, "vmlinux");
  const found = await recorded(options.stateDir, path);
  if (found?.hash === inputsDigest) return { path, inputsDigest, built: false };
  await using _lock = await lockGuestHome(home, { onWait: () => meter.phase("wait"), ...(signal && { signal }) });
  const built = !(await exists(path));
  if (built) {
    await needTools({
      what: "the guest kernel",
      tools: TOOLS,
      files: [LIBELF_HEADER],
      packages: KERNEL_BUILD_PACKAGES,
    });
    // The source tree takes 1.4 GB, the objects 0.2.
    await using scratch = await makeScratch(home);
    await compile(scratch.path, inputs, meter, options);
    await keep(scratch.path, join(home, inputsDigest), inputs);
    meter.phase("done");
  }
  const release = kernelRelease(await readFile(path));
  await recordKernel(options.stateDir, { kind: "own", vmlinux: path, modules: null, release, hash: inputsDigest });
  return { path, inputsDigest, built };
}

/** What decides which kernel comes out. Quick: nothing is downloaded. */
export async function kernelInputs(configPath: string, signal?: AbortSignal): Promise<KernelInputs> {
  const ask = async (argv: readonly string[]): Promise<string> => {
    const options = { timeoutMs: STEP_TIMEOUT_MS, env: CLEAN_ENV, ...(signal && { signal }) };
    return (await runChecked(argv, { ...options, failure: "HOST_UNSUPPORTED", next: toolsHint() })).stdout;
  };
  const [config, sourceVersion, compiler, linker] = await Promise.all([
    readFile(configPath, "utf8"),
    aptCandidate(SOURCE_PACKAGE, signal),
    ask(["gcc", "--version"]),
    ask(["ld", "--version"]),
  ]);
  if (sourceVersion === null) {
    throw new BulkheadError("HOST_UNSUPPORTED", {
      what: `Debian package ${SOURCE_PACKAGE} is not known to apt`,
      next: "run apt-get update on a Debian 12 machine, or take Debian's stock kernel: bulkhead setup microvm --stock-kernel",
    });
  }
  return { config, sourceVersion, compiler: firstLine(compiler), linker: firstLine(linker) };
}

async function compile(
  scratch: string,
  inputs: KernelInputs,
  meter: BuildMeter,
  options: BuildKernelOptions,
): Promise<void> {
  const run = stepRunner(options.signal);
  const [tree, out] = [join(scratch, "tree"), join(scratch, "out")];
  await mkdir(tree);
  await mkdir(out);
  meter.phase("download");
  const deb = await downloadPackage(SOURCE_PACKAGE, inputs.sourceVersion, scratch, run);
  meter.phase("unpack");
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
  await run([...make, ...reproducible, jobs, "vmlinux"], tree, { onLine: (line) => meter.line(line) });
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
  await syncFiles(result, ["vmlinux", "config", "inputs.json"]);
  await rename(result, target);
}

function toolsHint(): string {
  return `apt-get install ${KERNEL_BUILD_PACKAGES.join(" ")}`;
}
