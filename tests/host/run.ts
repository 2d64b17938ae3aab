#!/usr/bin/env node
import { BulkheadError } from "@bulkhead/contract";
import { config } from "./config.ts";
import { testAppArmor, testDelegation, testEnd, testFacts, testKvm } from "./selftest.ts";
import { SOURCE_INSIDE, startTestHost, type TestHost } from "./test-host.ts";

const USAGE = `usage: ./x testhost [--cold] -- COMMAND [ARGUMENT]...
       ./x testhost [--cold] conformance [OPTION]...      options of ./x conformance
       ./x testhost selftest                              that it is what it is said to be, and leaves nothing
       ./x testhost quick                                 selftest and the suite's themes that differ there
       ./x testhost kvm                                   what it is said to be, and microVMs under KVM

Runs a command as root on an emulated host of its own: a unified cgroup hierarchy, AppArmor, KVM, no network, with this
repository and its build in ${SOURCE_INSIDE}. Nothing it writes is kept.
`;
interface Part {
  readonly drivers: readonly string[];
  readonly only: string;
}

/** What depends on the control groups and AppArmor; 256 starts of a program one after another tell nothing new. */
const CONTAINERS: Part = {
  drivers: ["container/crun", "gvisor/runsc"],
  only: "^(exec|limits|neighbours|boundary|crash|plan):(?! every exit code)",
};
/**
 * With KVM: the boundary and what the plan promises of it, templates and clones, panics, pausing and what is left when a paused one
 * is killed, and how programs and files fare. Not what takes long there and asks nothing of the processor: saving, forks, transfers.
 */
const VIRTUAL: Part = {
  drivers: ["microvm/qemu"],
  only: [
    "^(boundary|plan):",
    "^crash: .*paused",
    "^microvm:(?! 20 guests)",
    "^exec:(?! (every exit code|300 arguments|an argument of|arguments arrive))",
    "^files:(?! (20 MiB|list 5,000|30 reads|names that|an atomic write))",
    "^state: paused",
  ].join("|"),
};
/** A processor that is emulated, and one below it by gVisor. */
const PATIENCE = "5";
const EXIT_CANNOT = 125;

const say = (line: string): void => void process.stderr.write(`testhost: ${line}\n`);

/** @returns what is run one after another in the host; null when the words mean nothing */
function commandsOf(words: readonly string[]): readonly (readonly string[])[] | null {
  const suite = ["/srv/tools/node", `${SOURCE_INSIDE}/conformance/run.ts`, "--patience", PATIENCE];
  const [verb, ...rest] = words;
  if (verb === "--") return rest.length > 0 ? [rest] : null;
  if (verb === "conformance") return [[...suite, ...rest]];
  if (rest.length > 0) return null;
  if (verb === "selftest") return [];
  const parts = verb === "kvm" ? [VIRTUAL] : verb === "quick" ? [CONTAINERS, VIRTUAL] : null;
  if (parts === null) return null;
  return parts.map(({ drivers, only }) => [...suite, ...drivers.flatMap((name) => ["--driver", name]), "--only", only]);
}

async function run(host: TestHost, command: readonly string[], signal: AbortSignal): Promise<number> {
  const execution = host.inside.exec(command, { cwd: SOURCE_INSIDE, signal });
  for await (const { lane, data } of execution) {
    const target = lane === "stdout" ? process.stdout : process.stderr;
    if (!target.write(data)) await new Promise((resolve) => target.once("drain", resolve));
  }
  const { status } = await execution;
  return status.exitCode;
}

async function main(argv: readonly string[], signal: AbortSignal): Promise<number> {
  const words = argv[0] === "--cold" ? argv.slice(1) : argv;
  const commands = commandsOf(words);
  if (commands === null) {
    process.stderr.write(USAGE);
    return 2;
  }
  const begun = performance.now();
  await using host = await startTestHost({ state: config.state, cold: words !== argv, say, signal });
  say(`up after ${Math.round(performance.now() - begun)} ms`);
  const [verb] = words;
  if (verb === "selftest" || verb === "quick" || verb === "kvm") {
    await testFacts(host, say);
    await testAppArmor(host, say);
    await testKvm(host, say);
  }
  if (verb === "selftest" || verb === "quick") {
    await testDelegation(host, say);
    await testEnd("SIGINT", say);
    await testEnd("SIGKILL", say);
  }
  let worst = 0;
  for (const command of commands) {
    const started = performance.now();
    worst = Math.max(worst, await run(host, command, signal));
    say(`that took ${Math.round((performance.now() - started) / 1000)} s`);
  }
  return worst;
}

const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => stop.abort());
try {
  process.exitCode = await main(process.argv.slice(2), stop.signal);
} catch (error) {
  const lines =
    error instanceof BulkheadError
      ? [error.message, error.why, error.next]
      : [error instanceof Error ? error.message : String(error)];
  for (const line of lines) if (line !== undefined) say(line);
  process.exitCode = stop.signal.aborted ? 130 : EXIT_CANNOT;
}
