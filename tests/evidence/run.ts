#!/usr/bin/env node
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs, promisify } from "node:util";
import { Engine } from "@bulkhead/engine";
import type { ReportRow } from "../../conformance/report.ts";
import { securityNames } from "../../packages/engine/src/host/security-modules.ts";
import { DRIVERS } from "../escape/support/catalogue.ts";
import type { Report } from "../escape/support/report.ts";
import { evidencePage, type Facts } from "./page.ts";
import { measureReach } from "./reach.ts";

const ROOT = join(import.meta.dirname, "../..");
const PAGE = "docs/evidence.md";
const USAGE = `usage: ./x evidence [--conformance FILE]... [--output FILE]

Runs the suite against every driver, every attack with its control, and reads which system calls are within reach; writes
what was seen to ${PAGE}. --conformance takes the suite's outcome from files that ./x conformance --report has written; of a check in several the last counts.
`;
const ATTACKS_TIMEOUT_MS = 1_800_000;
const MAX_REPORT_BYTES = 64 * 1024 * 1024;

const say = (line: string): void => void process.stderr.write(`evidence: ${line}\n`);

/** @returns the suite's outcome; its own lines go to standard error */
async function conformance(directory: string): Promise<string> {
  const path = join(directory, "conformance.json");
  const drivers = DRIVERS.flatMap((name) => ["--driver", name]);
  const argv = [join(ROOT, "conformance/run.ts"), ...drivers, "--report", path];
  const child = spawn(process.execPath, argv, { stdio: ["ignore", 2, 2] });
  await once(child, "close");
  return path;
}

/** In namespaces of its own, which are the host's as far as the attacks can see. */
async function attacked(): Promise<Report> {
  const script = join(ROOT, "tests/escape/support/run.ts");
  const argv = ["--pdeathsig", "KILL", "unshare", "--net", "--ipc", process.execPath, script];
  const { stdout } = await promisify(execFile)("setpriv", argv, {
    timeout: ATTACKS_TIMEOUT_MS,
    maxBuffer: MAX_REPORT_BYTES,
  });
  return JSON.parse(stdout) as Report;
}

async function facts(run: string): Promise<Facts> {
  await using engine = await Engine.open({ run, drivers: DRIVERS });
  const { host } = engine;
  const runtimes = Object.values(host.runtimes).flatMap((one) =>
    one.kind === "found" ? [`${one.runtime.name} ${one.runtime.version}`] : [],
  );
  const { plan } = await engine.explain({ isolation: "microvm" });
  return {
    drivers: DRIVERS,
    host: [
      ["kernel", `Linux ${host.kernelRelease}, ${host.arch}`],
      ["control groups", host.cgroup.mode],
      ["security modules", securityNames(host.security).join(", ") || "none"],
      ["runtimes", runtimes.join(", ")],
      ["microVMs are run by", plan.boundary.monitor?.accelerator === "kvm" ? "the processor (KVM)" : "emulation (TCG)"],
      ["agent, sha256", host.digests.agent.slice(0, 16)],
    ],
  };
}

const { values } = parseArgs({
  options: {
    conformance: { type: "string", multiple: true },
    output: { type: "string", default: join(ROOT, PAGE) },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  process.stdout.write(USAGE);
} else {
  const directory = await mkdtemp(join(tmpdir(), "bulkhead-evidence-"));
  // Runtimes pass through it under ids of their own.
  await chmod(directory, 0o755);
  await using cleanup = new AsyncDisposableStack();
  cleanup.defer(() => rm(directory, { recursive: true, force: true }));
  const run = join(directory, "run");
  const files = values.conformance ?? [await conformance(directory)];
  const reports = await Promise.all(files.map((path) => readFile(path, "utf8")));
  const rows = reports.flatMap((text) => JSON.parse(text) as readonly ReportRow[]);
  const last = new Map(rows.map((row) => [JSON.stringify([row.driver, row.theme, row.check]), row]));
  say("which system calls are within reach");
  const reach = await measureReach(DRIVERS, run);
  say("attacks");
  const report = await attacked();
  await writeFile(values.output, evidencePage(await facts(run), [...last.values()], reach, report));
  say(`written to ${values.output}`);
}
