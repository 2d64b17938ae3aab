import { access, mkdir, mkdtemp, open, readdir } from "node:fs/promises";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { lockFile } from "../system/file-lock.ts";
import { runChecked, runProgram } from "../system/process.ts";
import { removeTree } from "../system/remove-tree.ts";

export const CLEAN_ENV = { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C.UTF-8" };
export const STEP_TIMEOUT_MS = 10 * 60_000;
const SCRATCH_PREFIX = ".building-";
/** Four minutes on two idle cores; a machine ten times as busy still gets there. */
const BUILD_TIMEOUT_MS = 60 * 60_000;

export interface StepOptions {
  readonly onLine?: (line: string) => void;
  /** Over an environment that has nothing of the caller's. */
  readonly env?: Readonly<Record<string, string>>;
}

/** Runs one step of a build, to its end. */
export type Run = (argv: readonly string[], cwd: string, options?: StepOptions) => Promise<unknown>;

export interface WorkshopOptions {
  readonly signal?: AbortSignal;
  /** Called when somebody else makes a kernel. */
  readonly onWait?: () => void;
}

/** The directory of the guest's kernels below Bulkhead's lasting state; made when it is not there. */
export async function guestHome(stateDir: string): Promise<string> {
  const home = join(stateDir, "guest");
  await mkdir(home, { recursive: true, mode: 0o755 });
  return home;
}

/** While it is held nobody else makes a kernel or changes the index. */
export async function lockGuestHome(home: string, options: WorkshopOptions): Promise<AsyncDisposable> {
  return lockFile(join(home, "lock"), options);
}

/** A directory for one build, removed at the end, as is what builds that were killed have left. To be called under the lock. */
export async function makeScratch(home: string): Promise<AsyncDisposable & { readonly path: string }> {
  for (const name of await readdir(home)) {
    if (name.startsWith(SCRATCH_PREFIX)) await removeTree(join(home, name), home);
  }
  const path = await mkdtemp(join(home, SCRATCH_PREFIX));
  return { path, [Symbol.asyncDispose]: () => removeTree(path, home) };
}

/** The version that apt would install, null when it knows none. Nothing is downloaded. */
export async function aptCandidate(name: string, signal?: AbortSignal): Promise<string | null> {
  const version = /Candidate: (\S+)/.exec(await askApt(["apt-cache", "policy", name], signal))?.[1];
  return version === undefined || version === "(none)" ? null : version;
}

export async function askApt(argv: readonly string[], signal?: AbortSignal): Promise<string> {
  const options = { timeoutMs: STEP_TIMEOUT_MS, env: CLEAN_ENV, ...(signal && { signal }) };
  return (await runChecked(argv, { ...options, failure: "HOST_UNSUPPORTED" })).stdout;
}

export async function downloadPackage(name: string, version: string, scratch: string, run: Run): Promise<string> {
  // The scratch directory is root's, which apt's own unprivileged user could not write to.
  await run(["apt-get", "-o", "APT::Sandbox::User=root", "download", `${name}=${version}`], scratch);
  const deb = (await readdir(scratch)).find((file) => file.startsWith(`${name}_`) && file.endsWith(".deb"));
  if (deb !== undefined) return deb;
  throw new BulkheadError("RUNTIME_FAILED", { what: `apt-get download gave no file for ${name} ${version}` });
}

/** So that what is moved to its place afterwards is whole after a power cut too. */
export async function syncFiles(dir: string, names: readonly string[]): Promise<void> {
  for (const name of names) {
    await using file = await open(join(dir, name), "r");
    await file.sync();
  }
}

export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** What is started ends with this process, however that ends. @throws BulkheadError RUNTIME_FAILED, TIMEOUT, ABORTED, as each run */
export function stepRunner(signal?: AbortSignal): Run {
  return (argv, cwd, { onLine, env = {} } = {}) =>
    runChecked(["setpriv", "--pdeathsig", "KILL", ...argv], {
      failure: "RUNTIME_FAILED",
      name: argv[0] ?? "",
      timeoutMs: BUILD_TIMEOUT_MS,
      env: { ...CLEAN_ENV, ...env },
      cwd,
      ...(onLine && { onLine }),
      ...(signal && { signal }),
    });
}

export interface Tools {
  /** What is built with them. */
  readonly what: string;
  readonly tools: readonly string[];
  readonly files: readonly string[];
  /** Debian packages that bring all of them. */
  readonly packages: readonly string[];
}

/** @throws BulkheadError HOST_UNSUPPORTED that names what is missing */
export async function needTools({ what, tools, files, packages }: Tools): Promise<void> {
  const found = await runProgram(["sh", "-c", `for tool; do command -v "$tool"; done; true`, "sh", ...tools], {
    timeoutMs: STEP_TIMEOUT_MS,
    env: CLEAN_ENV,
  });
  const have = new Set(found.stdout.split("\n").map((path) => path.slice(path.lastIndexOf("/") + 1)));
  const missing: string[] = tools.filter((tool) => !have.has(tool));
  for (const file of files) if (!(await exists(file))) missing.push(file);
  if (missing.length === 0) return;
  throw new BulkheadError("HOST_UNSUPPORTED", {
    what: `building ${what} needs ${missing.join(", ")}`,
    next: `apt-get install ${packages.join(" ")}`,
  });
}

export function firstLine(text: string): string {
  return text.split("\n", 1)[0] ?? "";
}
