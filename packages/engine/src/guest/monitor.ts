import { createHash } from "node:crypto";
import { chmod, copyFile, mkdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { besidePath, OWN_QEMU } from "../host/own-qemu.ts";
import { writeAtomically } from "../host/file-cache.ts";
import { lockFile } from "../system/file-lock.ts";
import { runChecked, runProgram } from "../system/process.ts";
import { BuildMeter, numberedLines, type OnBuildProgress } from "./build-meter.ts";
import { DebianLists, type SourcePackage } from "./source.ts";
import {
  CLEAN_ENV,
  exists,
  firstLine,
  makeScratch,
  needTools,
  stepRunner,
  STEP_TIMEOUT_MS,
  syncFiles,
} from "./workshop.ts";

/** The emulator's package, whose source ours is built from and which stays beside it: our QEMU uses its firmware. */
export const QEMU_PACKAGE = "qemu-system-x86";
const QEMU_SOURCE = "qemu";
const BINARY = "qemu-system-x86_64";
/** Raised when the way of building changes. */
const RECIPE = 2;
/**
 * The release of Debian's whose QEMU older ones get: since 9 what is translated for one address of a program counts at all
 * others too. Before, each start of a program translates it anew, wherever the guest's kernel happens to put it.
 */
const RELEASE = { name: "trixie", number: 13 } as const;
const TOOLS = ["apt-get", "dpkg-source", "gcc", "ld", "ninja", "pkg-config", "python3", "strip"] as const;
/** QEMU's build makes an environment of Python's of its own. */
const FILES = ["/var/lib/dpkg/info/python3-venv.list"] as const;
/** They are linked into the program, so another version of one makes another program. */
export const LIBRARIES = [
  "libattr1-dev",
  "libc6-dev",
  "libcap-ng-dev",
  "libfdt-dev",
  "libglib2.0-dev",
  "libpcre2-dev",
  "libpixman-1-dev",
  "zlib1g-dev",
] as const;
/** Debian packages that bring all of the above. */
export const MONITOR_BUILD_PACKAGES = [
  ...["dpkg-dev", "gcc", "ninja-build", "pkg-config", "python3", "python3-venv"],
  ...LIBRARIES,
] as const;
/** QEMU looks for its own name there. */
const DEVICES = "bulkhead";
const CONFIGURE = [
  // Debian's firmware. A path outside the prefix stays what it is; one inside is looked for beside the program.
  "--datadir=/usr/share",
  // One file without libraries: it starts ten times as fast as with Debian's fifty, and a jail holds nothing besides.
  ...["--static", "--enable-pie", "--target-list=x86_64-softmmu"],
  ...["--without-default-features", "--without-default-devices", `--with-devices-x86_64=${DEVICES}`],
  ...["--enable-tcg", "--enable-kvm", "--enable-virtfs", "--enable-attr", "--enable-cap-ng", "--enable-malloc-trim"],
  ...["--enable-trace-backends=nop", "--audio-drv-list=", "--disable-tools", "--disable-guest-agent", "--disable-docs"],
  ...["--disable-debug-info", "--disable-werror", "--disable-install-blobs", "--disable-download"],
  // Where a position-independent program's own pointers are, in a twentieth of the space.
  "--extra-ldflags=-Wl,-z,pack-relative-relocs",
] as const;

export interface MonitorInputs {
  /** `guest/monitor.mak`'s text. */
  readonly devices: string;
  readonly source: SourcePackage;
  readonly compiler: string;
  /** Name and version of each, as dpkg tells. */
  readonly libraries: string;
}

export interface Monitor {
  readonly path: string;
  /** sha256 of all inputs, hex. */
  readonly inputsDigest: string;
  /** False when it was there already. */
  readonly built: boolean;
}

export interface BuildMonitorOptions {
  /** Root of Bulkhead's lasting state; the program is kept in `runtimes/qemu/<inputs digest>` below it. */
  readonly stateDir: string;
  /** `guest/monitor.mak` of this repository. */
  readonly devicesPath: string;
  readonly jobs?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: OnBuildProgress;
}

/** Equal inputs give the same digest on every machine. */
export function monitorInputsDigest({ devices, source, compiler, libraries }: MonitorInputs): string {
  return createHash("sha256")
    .update(JSON.stringify([RECIPE, CONFIGURE, devices, source.name, source.version, compiler, libraries]))
    .digest("hex");
}

/**
 * Builds QEMU from Debian's source with what guests need and nothing else, when it is not there, and has it used in place of
 * Debian's for as long as that stays the same. Calls at the same time build once. A build that is killed leaves a scratch
 * directory that the next one removes, and no program.
 *
 * @throws BulkheadError HOST_UNSUPPORTED when a tool or package is missing, RUNTIME_FAILED when the build fails, TIMEOUT,
 * ABORTED
 */
export async function buildMonitor(options: BuildMonitorOptions): Promise<Monitor> {
  const { signal } = options;
  const meter = new BuildMeter(numberedLines(), options.onProgress);
  const home = join(options.stateDir, OWN_QEMU);
  await mkdir(home, { recursive: true, mode: 0o755 });
  const onWait = (): void => meter.phase("wait");
  await using _lock = await lockFile(join(home, "lock"), { onWait, ...(signal && { signal }) });
  await needTools({ what: "QEMU", tools: TOOLS, files: FILES, packages: MONITOR_BUILD_PACKAGES });
  // Before the source is chosen: an update of Debian's that comes meanwhile is newer than what is built here.
  const beside = await packagedDigest();
  // The source tree takes 0.5 GB, the objects 0.1.
  await using scratch = await makeScratch(home);
  meter.phase("download");
  const release = isOlder(await readFile("/etc/os-release", "utf8").catch(() => "")) ? RELEASE.name : null;
  const lists = await DebianLists.open({ release, scratch: scratch.path, run: stepRunner(signal) });
  const inputs = await monitorInputs(options.devicesPath, await lists.newest(QEMU_SOURCE), signal);
  const inputsDigest = monitorInputsDigest(inputs);
  const target = join(home, inputsDigest);
  const built = !(await exists(target));
  if (built) {
    await compile(scratch.path, inputs, lists, meter, options);
    await keep(scratch.path, target, inputs);
  }
  await choose(home, inputsDigest, beside);
  meter.phase("done");
  return { path: join(target, BINARY), inputsDigest, built };
}

/** Testing and unstable have no number. */
export function isOlder(osRelease: string): boolean {
  const number = /^VERSION_ID="?(\d+)/m.exec(osRelease)?.[1];
  return number !== undefined && Number(number) < RELEASE.number;
}

async function monitorInputs(devicesPath: string, source: SourcePackage, signal?: AbortSignal): Promise<MonitorInputs> {
  const ask = async (argv: readonly string[]): Promise<string> => {
    const options = { timeoutMs: STEP_TIMEOUT_MS, env: CLEAN_ENV, ...(signal && { signal }) };
    const next = `apt-get install ${MONITOR_BUILD_PACKAGES.join(" ")}`;
    return (await runChecked(argv, { ...options, failure: "HOST_UNSUPPORTED", next })).stdout;
  };
  const [devices, compiler, libraries] = await Promise.all([
    readFile(devicesPath, "utf8"),
    ask(["gcc", "--version"]),
    ask(["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n", ...LIBRARIES]),
  ]);
  return { devices, source, compiler: firstLine(compiler), libraries };
}

async function compile(
  scratch: string,
  { devices, source }: MonitorInputs,
  lists: DebianLists,
  meter: BuildMeter,
  { jobs = availableParallelism(), signal }: BuildMonitorOptions,
): Promise<void> {
  const run = stepRunner(signal);
  // An older release's own is too old for the source of a newer one.
  const meson = await lists.unpackPackage("meson");
  const tree = await lists.unpackSource(source.name, () => meter.phase("unpack"));
  meter.phase("configure");
  await writeFile(join(tree, "configs/devices/x86_64-softmmu", `${DEVICES}.mak`), devices);
  const out = join(tree, "build");
  await mkdir(out);
  const env = {
    PATH: `${join(meson, "usr/bin")}:${CLEAN_ENV.PATH}`,
    PYTHONPATH: join(meson, "usr/lib/python3/dist-packages"),
  };
  const named = `--with-pkgversion=bulkhead, from Debian's ${source.version}`;
  await run(["../configure", ...CONFIGURE, named], out, { env });
  meter.phase("compile");
  await run(["ninja", `-j${jobs}`, BINARY], out, { env, onLine: (line) => meter.line(line) });
  await run(["strip", "-s", "-o", join(scratch, BINARY), join(out, BINARY)], scratch);
}

/** The directory appears whole or not at all. */
async function keep(scratch: string, target: string, inputs: MonitorInputs): Promise<void> {
  const result = join(scratch, "result");
  await mkdir(result, { mode: 0o755 });
  await copyFile(join(scratch, BINARY), join(result, BINARY));
  await chmod(join(result, BINARY), 0o755);
  await writeFile(join(result, "inputs.json"), `${JSON.stringify({ recipe: RECIPE, ...inputs }, null, 2)}\n`);
  await syncFiles(result, [BINARY, "inputs.json"]);
  await rename(result, target);
}

/** sha256 of Debian's program, hex, or empty where there is none. */
async function packagedDigest(): Promise<string> {
  const found = await runProgram(["sh", "-c", `command -v ${BINARY}`], { timeoutMs: STEP_TIMEOUT_MS, env: CLEAN_ENV });
  const path = firstLine(found.stdout);
  if (path === "") return "";
  const content = await readFile(path);
  return createHash("sha256").update(content).digest("hex");
}

/** From then on it is what microVMs run in. Stopped in between, what stands there counts no more, and Debian's is used. */
async function choose(home: string, inputsDigest: string, beside: string): Promise<void> {
  const draft = join(home, ".link");
  await rm(draft, { force: true });
  await symlink(join(inputsDigest, BINARY), draft);
  await rm(besidePath(home), { force: true });
  await rename(draft, join(home, BINARY));
  await writeAtomically(besidePath(home), `${beside}\n`);
}
