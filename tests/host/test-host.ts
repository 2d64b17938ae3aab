import { createHash, randomBytes } from "node:crypto";
import { mkdir, mkdtemp, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Plan } from "@bulkhead/contract";
import { Channel } from "../../packages/engine/src/channel/channel.ts";
import { HostGone } from "../../packages/engine/src/channel/wire.gen.ts";
import { Sandbox } from "../../packages/engine/src/sandbox/sandbox.ts";
import { lockFile } from "../../packages/engine/src/system/file-lock.ts";
import { runChecked } from "../../packages/engine/src/system/process.ts";
import { initialRoot } from "./boot.ts";
import { exists, type Say, TOOL_ENVIRONMENT } from "./common.ts";
import { type HostDisks, hostDisks } from "./disks.ts";
import { systemImage } from "./image.ts";
import { type Boot, hostTscKhz, type Machine, machineArgv, QEMU, startMachine } from "./machine.ts";
import { Qmp } from "./qmp.ts";
import { sweepHome, touch } from "./sweep.ts";

/** A cold boot takes 3 s on idle processors. */
const BOOT_TIMEOUT_MS = 120_000;
/** From a word on the console to the agent waiting for its host, on a busy machine. */
const AGENT_SETTLES_MS = 1000;
const ENVIRONMENT = {
  PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  HOME: "/root",
  LANG: "C.UTF-8",
  BULKHEAD_STATE: "/var/lib/bulkhead",
};
/** Where the repository is inside. */
export const SOURCE_INSIDE = "/srv/bulkhead";

export interface TestHostOptions {
  /** Bulkhead's state directory on this machine; what we build is kept in its `testhost`. */
  readonly state: string;
  /** Boots instead of waking a copy of the template. */
  readonly cold: boolean;
  readonly say: Say;
  readonly signal: AbortSignal;
}

/** A running test host: another machine's root, as one of our own sandboxes. */
export interface TestHost extends AsyncDisposable {
  readonly inside: Sandbox;
  /** What its kernel said last. */
  console(): string;
}

/** Everything a start needs, built where it was not there. */
export async function prepareTestHost({ state, say, signal }: TestHostOptions): Promise<{
  readonly home: string;
  readonly boot: Boot;
  readonly key: string;
  readonly disks: HostDisks;
}> {
  const home = join(state, "testhost");
  await mkdir(home, { recursive: true, mode: 0o700 });
  const image = await systemImage(home, say, signal);
  const first = await initialRoot(home, image);
  const disks = await hostDisks(home, state, say, signal);
  return { home, boot: { kernel: image.kernel, initramfs: first.path, system: image.disk }, key: first.key, disks };
}

/** Starts a test host; disposing of it leaves nothing. */
export async function startTestHost(options: TestHostOptions): Promise<TestHost> {
  const { say, signal } = options;
  const { home, boot, key, disks } = await prepareTestHost(options);
  const tscKhz = await hostTscKhz();
  await using stack = new AsyncDisposableStack();
  let machine: Machine;
  if (options.cold) {
    machine = stack.use(startMachine(machineArgv(boot, { kind: "cold", disks }, tscKhz), home));
  } else {
    const template = await ensureTemplate(home, boot, key, tscKhz, say, signal);
    const argv = machineArgv(boot, { kind: "clone", memory: join(template, "memory"), disks }, tscKhz);
    machine = stack.use(startMachine(argv, home));
    await wakeUp(machine, join(template, "state"));
  }
  const inside = await attach(machine, signal);
  const args = [`${Math.floor(Date.now() / 1000)}`, randomBytes(32).toString("hex")];
  const script = await readFile(join(import.meta.dirname, "guest/wake.sh"), "utf8");
  const woken = await inside.exec(["/bin/sh", "-c", script, "wake", ...args], { signal });
  if (woken.status.exitCode !== 0) throw new Error(`the test host did not wake up: ${woken.stderr.toString().trim()}`);
  const owned = stack.move();
  return { inside, console: () => machine.console(), [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** @throws Error with the console's last lines when the machine ends or says nothing */
async function attach(machine: Machine, signal: AbortSignal): Promise<Sandbox> {
  const env = Object.entries(ENVIRONMENT).map(([name, value]) => Buffer.from(`${name}=${value}`));
  const configure = {
    hostGone: HostGone.exit,
    defaultUser: "root",
    allowSetuid: true,
    elevate: false,
    filter: new Uint8Array(),
    env,
    hostname: "",
    openFiles: 0n,
  };
  const { agent } = machine;
  try {
    const options = { readable: agent, writable: agent, fresh: true, configure, timeoutMs: BOOT_TIMEOUT_MS, signal };
    const channel = await Channel.attach(options);
    const ended = machine.ended.then(({ code, signal: by }) => ({ code, signal: by, oomKilled: false }));
    const release = async (): Promise<void> => await machine[Symbol.asyncDispose]();
    // The part of a plan that a sandbox's object reads.
    const plan = { process: { workdir: "/" } } as Plan;
    return new Sandbox({ id: "testhost", plan, channel, workdir: "/", ended, release });
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    throw new Error(`the test host did not come up: ${text}\n${machine.console()}`, { cause: error });
  }
}

async function wakeUp(machine: Machine, state: string): Promise<void> {
  const qmp = new Qmp(machine.qmp);
  await qmp.call("qmp_capabilities");
  await ignoreShared(qmp);
  await qmp.call("migrate-incoming", { uri: `exec:cat ${quoted(state)}` });
}

const quoted = (path: string): string => `'${path.replaceAll("'", `'\\''`)}'`;

async function ignoreShared(qmp: Qmp): Promise<void> {
  const capabilities = [{ capability: "x-ignore-shared", state: true }];
  await qmp.call("migrate-set-capabilities", { capabilities });
}

/**
 * A test host stopped with its agent ready, for every later one to start from. It is bound to the system, to QEMU's build
 * and command line, and to this boot of this machine, whose time stamp counter goes on in it.
 */
async function ensureTemplate(
  home: string,
  boot: Boot,
  key: string,
  tscKhz: number,
  say: Say,
  signal: AbortSignal,
): Promise<string> {
  const version = await runChecked([QEMU, "--version"], {
    failure: "HOST_UNSUPPORTED",
    next: "apt-get install qemu-system-x86",
    timeoutMs: 30_000,
    env: TOOL_ENVIRONMENT,
    signal,
  });
  const bootId = await readFile("/proc/sys/kernel/random/boot_id", "utf8");
  const argv = (memory: string): readonly string[] => machineArgv(boot, { kind: "template", memory }, tscKhz);
  const bound = [key, version.stdout, bootId, argv("")];
  const name = createHash("sha256").update(JSON.stringify(bound)).digest("hex").slice(0, 16);
  const target = join(home, `template-${name}`);
  await using _lock = await lockFile(join(home, "lock"), { signal, onWait: () => say("waiting for another build") });
  if (await exists(target)) {
    await touch(target);
    return target;
  }
  say("booting the test host once, for all later ones to start from");
  await sweepHome(home);
  const scratch = await mkdtemp(join(home, ".template-"));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rm(scratch, { recursive: true, force: true }));
  const machine = stack.use(startMachine(argv(join(scratch, "memory")), home));
  await agentReady(machine, signal);
  const qmp = new Qmp(machine.qmp);
  await qmp.call("qmp_capabilities");
  await ignoreShared(qmp);
  await qmp.call("migrate-set-parameters", { "max-bandwidth": 10 * 1024 ** 3 });
  await qmp.call("migrate", { uri: `exec:cat >${quoted(join(scratch, "state"))}` });
  await migrated(qmp);
  await machine[Symbol.asyncDispose]();
  await rename(scratch, target);
  return target;
}

/** The port in the guest is open, which QEMU knows; the agent then waits in a read. */
async function agentReady(machine: Machine, signal: AbortSignal): Promise<void> {
  const died = machine.ended.then(() => {
    throw new Error(`the test host ended while it booted:\n${machine.console()}`);
  });
  died.catch(() => undefined);
  const deadline = performance.now() + BOOT_TIMEOUT_MS;
  while (!machine.console().includes("testhost: agent")) {
    if (performance.now() > deadline) throw new Error(`the test host does not boot:\n${machine.console()}`);
    await Promise.race([sleep(20, undefined, { signal }), died]);
  }
  // From the word on the console to the agent's first wait for input.
  await sleep(AGENT_SETTLES_MS, undefined, { signal });
}

async function migrated(qmp: Qmp): Promise<void> {
  for (;;) {
    const { status } = (await qmp.call("query-migrate")) as { readonly status?: string };
    if (status === "completed") return;
    if (status === "failed" || status === "cancelled") throw new Error(`QEMU could not write the template: ${status}`);
    await sleep(5);
  }
}
