import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, chmodSync, readdirSync, lstatSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { Engine } from "@bulkhead/engine";
import { type Attack, CONTROL, DRIVERS, PROGRAM_FILES } from "./catalogue.ts";
import type { Report, Run } from "./report.ts";

/**
 * Plants the canaries, runs every attack in the control and in one sandbox of each driver, and prints a `Report` as
 * JSON. To be started in network and IPC namespaces of its own, which are the host's as far as the attacks can see.
 */

const HERE = import.meta.dirname;
const MIB = 1024 * 1024;
/** All attacks together take seconds; each is bounded by itself. */
const ATTACKS_TIMEOUT_MS = 300_000;

interface Planted {
  readonly config: Readonly<Record<string, unknown>> & { readonly mark: string };
  readonly secrets: readonly string[];
}

interface Canaries {
  readonly planted: Planted;
  /** Signals that have arrived at the victim. */
  signals(): number;
  end(): Promise<void>;
}

async function plant(base: string): Promise<Canaries> {
  const child: ChildProcess = spawn("python3", [join(HERE, "canaries.py"), base], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  if (child.stdout === null) throw new Error("the canaries have no output");
  const lines = createInterface({ input: child.stdout });
  let signals = 0;
  const ready = Promise.withResolvers<Planted>();
  lines.on("line", (line) => {
    const told = JSON.parse(line) as Planted | { readonly signal: true };
    if ("signal" in told) signals += 1;
    else ready.resolve(told);
  });
  const ended = once(child, "exit").then(() => ready.reject(new Error("the canaries could not be planted")));
  return {
    planted: await ready.promise,
    signals: () => signals,
    end: async () => {
      child.stdin?.end();
      await ended;
    },
  };
}

/** The programs as one, as each place gets it. */
function program(): string {
  const parts = PROGRAM_FILES.map((name) => readFileSync(join(HERE, "../attacks", name), "utf8"));
  return [...parts, "run_all()\n"].join("\n");
}

const parse = (text: string): Readonly<Record<string, string>> => JSON.parse(text) as Record<string, string>;

/** Files of the host that hold `mark`, below any of `places`. */
function marked(places: readonly string[], mark: string): readonly string[] {
  return places.flatMap((place): readonly string[] => {
    if (lstatSync(place).isDirectory())
      return marked(
        readdirSync(place).map((name) => join(place, name)),
        mark,
      );
    return lstatSync(place).isFile() && readFileSync(place).includes(mark) ? [place] : [];
  });
}

/** Runs `attacks` and adds the marks they left on the host: a signal that arrived, `programs` that were written to. */
async function withMarks(
  canaries: Canaries,
  place: string,
  programs: readonly string[],
  attacks: () => Promise<Readonly<Record<string, string>>>,
): Promise<Run> {
  const before = canaries.signals();
  const told = await attacks();
  // A signal is told through a pipe; what was sent before the attacks ended has come when this has passed the loop twice.
  await new Promise((resolve) => setTimeout(resolve, 200));
  const marks = canaries.signals() > before ? ["signal"] : [];
  if (marked(programs, canaries.planted.config.mark).length > 0) marks.push("self-exe");
  return { place, unavailable: null, told, marks };
}

async function control(base: string, rootfs: string, canaries: Canaries): Promise<Run> {
  const path = `${base}/shown/program`;
  const attacked = async (how: "chroot" | "pivot", only: Attack | "all"): Promise<Readonly<Record<string, string>>> => {
    const config = { ...canaries.planted.config, program: path, programArguments: ["60"], only };
    const argv = [join(HERE, "control.py"), rootfs, base, how, program(), JSON.stringify(config)];
    const { stdout } = await promisify(execFile)("python3", argv, {
      timeout: ATTACKS_TIMEOUT_MS,
      maxBuffer: 64 * MIB,
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
    });
    return parse(stdout);
  };
  // A root made by chroot lets nobody make a user namespace, and one made by pivot_root has nothing above it.
  return await withMarks(canaries, CONTROL, [path], async () => ({
    ...(await attacked("pivot", "all")),
    ...(await attacked("chroot", "chroot-escape")),
  }));
}

async function level(driver: string, base: string, canaries: Canaries): Promise<Run> {
  await using engine = await Engine.open({ run: `${base}/run`, drivers: [driver] });
  const [candidate] = engine.candidates;
  if (candidate === undefined) throw new Error(`the engine has no driver ${driver}`);
  const { availability } = candidate;
  if (!availability.ok) return { place: driver, unavailable: availability.reason, told: {}, marks: [] };
  // A directory of the host: an attacker then has a hold on the host's disk.
  const mounts = [{ source: `${base}/shared`, target: "/mnt/shared" }];
  await using box = await engine.create({ isolation: candidate.driver.level, mounts });
  const { agent, layer, sudoLayer } = engine.host.paths;
  const config = { ...canaries.planted.config, program: "/.bulkhead/agent", programArguments: [], only: "all" };
  return await withMarks(canaries, driver, [agent, layer, sudoLayer], async () => {
    await box.files.write("/tmp/attack.py", program(), { user: "root" });
    const argv = ["python3", "/tmp/attack.py", JSON.stringify(config)];
    const result = await box.exec(argv, { user: "root", timeoutMs: ATTACKS_TIMEOUT_MS });
    if (!result.ok) throw new Error(`${driver}: the attacks ended with ${result.exitCode}: ${result.errorText}`);
    return parse(result.text);
  });
}

async function main(): Promise<void> {
  const base = mkdtempSync(join(tmpdir(), "bulkhead-escape-"));
  await using cleanup = new AsyncDisposableStack();
  cleanup.defer(() => rmSync(base, { recursive: true, force: true }));
  // Passable for the ids a sandbox runs as: what keeps them from a secret must be the boundary.
  chmodSync(base, 0o755);
  const canaries = await plant(base);
  cleanup.defer(() => canaries.end());
  await using engine = await Engine.open({ run: `${base}/run` });
  const runs = [await control(base, engine.images.resolve("base").rootfs, canaries)];
  for (const driver of DRIVERS) runs.push(await level(driver, base, canaries));
  console.log(JSON.stringify({ secrets: canaries.planted.secrets, runs } satisfies Report));
}

await main();
