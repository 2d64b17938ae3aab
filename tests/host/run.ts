#!/usr/bin/env node
import { BulkheadError } from "@bulkhead/contract";
import { config } from "./config.ts";
import { testAppArmor, testDelegation, testEnd, testFacts } from "./selftest.ts";
import { SOURCE_INSIDE, startTestHost, type TestHost } from "./test-host.ts";

const USAGE = `usage: ./x testhost [--cold] -- COMMAND [ARGUMENT]...
       ./x testhost [--cold] conformance [OPTION]...      options of ./x conformance
       ./x testhost selftest                              that it is what it is said to be, and leaves nothing
       ./x testhost quick                                 selftest and the suite's themes that differ there

Runs a command as root on an emulated host of its own: a unified cgroup hierarchy, AppArmor, KVM, no network, with this
repository and its build in ${SOURCE_INSIDE}. Nothing it writes is kept.
`;
/** What depends on what differs there; 256 starts of a program one after another tell nothing new. */
const QUICK: readonly { readonly drivers: readonly string[]; readonly only: string }[] = [
  {
    drivers: ["container/crun", "gvisor/runsc"],
    only: "^(exec|limits|neighbours|boundary|crash|plan):(?! every exit code)",
  },
  // With KVM: start, programs, streams, what root inside can reach, the jail, templates, limits, the monitor's end.
  {
    drivers: ["microvm/qemu"],
    only: [
      "^(exec: (arguments|environment: given|user)",
      "streams: (a slow reader|first output|output that a background)",
      "boundary: (processes|a file of the host|root)",
      "plan: (from outside|limits)",
      "microvm: (what|from outside|a panic|a guest)",
      "limits: (at the process|beyond the memory limit the process|a full disk)",
      "crash: (engine killed|kill returns))",
    ].join("|"),
  },
];
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
  if (verb !== "quick") return null;
  return QUICK.map(({ drivers, only }) => [...suite, ...drivers.flatMap((name) => ["--driver", name]), "--only", only]);
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
  if (words[0] === "selftest" || words[0] === "quick") {
    await testFacts(host, say);
    await testDelegation(host, say);
    await testAppArmor(host, say);
    await testEnd("SIGINT", say);
    await testEnd("SIGKILL", say);
  }
  let worst = 0;
  for (const command of commands) worst = Math.max(worst, await run(host, command, signal));
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
