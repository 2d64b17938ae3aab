#!/usr/bin/env node
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { measureImages } from "./images.ts";
import { measureEgress } from "./egress.ts";
import { Lab } from "./lab.ts";
import { type Options, parseOptions, USAGE } from "./options.ts";
import { type Bench, measureCold, measureExec, measureMemory, measureThroughput, type Result } from "./parts.ts";
import { printGoals, printResult } from "./report.ts";
import { setUp } from "./setup.ts";

const print = (text: string): void => void process.stdout.write(`${text}\n`);

/**
 * Enters a mount namespace of its own, where the peers' mounts vanish with it and, on a machine with both control group
 * versions, crun sees only the first: it refuses to start beside the second.
 */
const ENTER = `if [ -d /sys/fs/cgroup/unified ]; then mount -t tmpfs -o size=1m tmpfs /sys/fs/cgroup/unified; fi; exec "$@"`;

async function enter(argv: readonly string[]): Promise<number> {
  const self = fileURLToPath(import.meta.url);
  const child = spawn(
    "unshare",
    ["--mount", "--propagation", "slave", "sh", "-c", ENTER, "sh", process.execPath, self, "--inside", ...argv],
    { stdio: "inherit" },
  );
  // The terminal sends Ctrl-C to the child as well, which then cleans up: wait for it.
  for (const name of ["SIGINT", "SIGHUP"] as const) process.on(name, () => undefined);
  process.on("SIGTERM", () => child.kill("SIGTERM"));
  const [code] = (await once(child, "exit")) as [number | null];
  return code ?? 1;
}

async function measure(options: Options, signal: AbortSignal): Promise<readonly Result[]> {
  const progress = (text: string): void => {
    if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
  };
  await using lab = await Lab.make();
  const { direct, commands, missing } = await setUp(lab, options, progress);
  const bench: Bench = { options, signal, progress };
  const results: Result[] = [];
  const show = (result: Result): void => {
    progress("");
    results.push(result);
    print(`${printResult(result, [...direct, ...commands])}\n`);
  };
  for (const { name, missing: why } of missing) print(`NOT MEASURED: ${name}: ${why}`);
  for (const part of options.parts) {
    if (part === "cold") show(await measureCold(bench, "cold", "from nothing", direct));
    if (part === "exec") show(await measureExec(bench, [...direct, ...commands]));
    if (part === "cli") show(await measureCold(bench, "cli", "the whole command", commands));
    if (part === "throughput") show(await measureThroughput(bench, [...direct, ...commands]));
    if (part === "memory") show(await measureMemory(bench, [...direct, ...commands]));
    if (part === "images") show(await measureImages(bench, lab, commands));
    if (part === "egress") show(await measureEgress(bench, lab));
  }
  print(printGoals(results));
  return results;
}

async function main(argv: readonly string[]): Promise<number> {
  const options = parseOptions(argv);
  if (options.help) return (print(USAGE), 0);
  if (process.getuid?.() !== 0) throw new Error("the bench needs root: mounts and control groups are what it measures");
  if (!options.inside) return await enter(argv);
  const controller = new AbortController();
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
    process.on(name, () => controller.abort(new Error(`broken off by ${name}`)));
  const results = await measure(options, controller.signal);
  if (options.json !== null) await writeFile(options.json, `${JSON.stringify(results, null, 2)}\n`);
  return results.every((r) => r.series.every((s) => s.failure === null)) ? 0 : 1;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  // What broke a measurement off, rather than what its cleaning up met with then.
  const first = error instanceof SuppressedError ? error.suppressed : error;
  process.stderr.write(`bench: ${first instanceof Error ? first.message : String(first)}\n`);
  process.exitCode = 1;
}
