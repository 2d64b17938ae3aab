import type { Plan } from "@bulkhead/contract";
import type { Engine } from "@bulkhead/engine";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { constants, open, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Channel } from "../../packages/engine/src/channel/channel.ts";
import { HostGone } from "../../packages/engine/src/channel/wire.gen.ts";
import { qemuArgv, type Boot, type Machine } from "../../packages/engine/src/drivers/microvm/qemu.ts";
import { ensureScratch, scratchPath, type ScratchSize } from "../../packages/engine/src/drivers/scratch.ts";
import { erofsImage } from "../../packages/engine/src/guest/erofs.ts";
import { agentInitramfs } from "../../packages/engine/src/guest/initramfs.ts";
import type { KernelRecord } from "../../packages/engine/src/guest/kernel-index.ts";
import { readModules } from "../../packages/engine/src/guest/modules.ts";
import { prepareGuest } from "../../packages/engine/src/guest/prepare.ts";
import { takeStockKernel } from "../../packages/engine/src/guest/stock.ts";
import { Sandbox } from "../../packages/engine/src/sandbox/sandbox.ts";
import type { Lab } from "../lab.ts";
import { pssOf } from "../lab.ts";
import type { Peer, Setup } from "../peer.ts";
import { output } from "../timing.ts";
import { execute, standingIn } from "./ours.ts";

const MIB = 1024 * 1024;
/** As ours without limits in its spec. */
const MEMORY_MIB = 564;
const DISK: ScratchSize = { bytes: 1024 * MIB, inodes: 65_536 };
const PIDS = 512;
/** Of the disk, as spawn numbers what follows the standard streams. */
const INHERITED_FD = 3;
const BOOT_TIMEOUT_MS = 60_000;

interface Bare {
  readonly lab: Lab;
  readonly machine: Machine;
  readonly boot: Boot;
  readonly root: string;
}

/** QEMU as anybody can start it, without a jail or a template, with the best options we know; our agent is its init. */
export async function qemuPeers(lab: Lab, engine: Engine): Promise<Setup[]> {
  const kernel = engine.host.guestKernel;
  const found = engine.candidates.find(({ driver }) => driver.level === "microvm")?.availability;
  if (kernel === null || found?.ok !== true) return [{ ok: false, name: "qemu", missing: "no microVM can be had" }];
  const own = await bareQemu(lab, engine, found.runtime.path, kernel, "qemu, our kernel");
  try {
    const stock = await takeStockKernel({ stateDir: await lab.path("stock") });
    return [own, await bareQemu(lab, engine, found.runtime.path, stock, "qemu, Debian's kernel")];
  } catch (error) {
    return [own, { ok: false, name: "qemu, Debian's kernel", missing: String(error) }];
  }
}

async function bareQemu(lab: Lab, engine: Engine, binary: string, kernel: KernelRecord, name: string): Promise<Setup> {
  const image = engine.images.resolve("base");
  const initramfs = join(lab.directory, `initramfs-${kernel.kind}`);
  const modules = kernel.modules === null ? [] : await readModules(kernel.modules);
  await writeFile(initramfs, agentInitramfs(await readFile(engine.host.paths.agent), modules));
  await ensureScratch(lab.directory, DISK);
  const accelerator = await acceleratorOf(engine);
  const bare: Bare = {
    lab,
    machine: { binary, accelerator, kernel: kernel.kind, memoryMib: MEMORY_MIB, cpus: 1, consoleFd: null },
    boot: { kind: kernel.kind, kernel: kernel.vmlinux, initramfs },
    root: await erofsImage(image),
  };
  const peer: Peer = {
    name,
    cold: async (work) => {
      const started = performance.now();
      const { box } = await startGuest(bare);
      const readyMs = performance.now() - started;
      try {
        return { ...(await execute(box, work, started)), readyMs };
      } finally {
        await box.kill();
      }
    },
    stand: async () => {
      const { box, pid } = await startGuest(bare);
      return standingIn(box, async () => ({ pssBytes: await pssOf([pid]), chargedBytes: Number.NaN }));
    },
  };
  return { ok: true, peers: [peer] };
}

/** What our own driver has found out, read from the command line it would use. */
async function acceleratorOf(engine: Engine): Promise<Machine["accelerator"]> {
  const { plan, steps } = await engine.explain({ isolation: "microvm" });
  if (plan.boundary.monitor?.accelerator === "kvm") return { kind: "kvm" };
  const tscKhz = /tsc_early_khz=(\d+)/.exec(JSON.stringify(steps))?.[1];
  if (tscKhz === undefined) throw new Error("the driver's steps do not say how fast the clock is");
  return { kind: "tcg", tscKhz: Number(tscKhz) };
}

async function startGuest({
  lab,
  machine,
  boot,
  root,
}: Bare): Promise<{ readonly box: Sandbox; readonly pid: number }> {
  const id = lab.id();
  const upper = join(lab.directory, `${id}.ext4`);
  await output(["cp", "--sparse=always", scratchPath(lab.directory, DISK), upper]);
  const disk = await open(upper, constants.O_RDWR | constants.O_DIRECT);
  const [file = "", ...rest] = qemuArgv(machine, {
    kind: "cold",
    boot,
    disks: { root, upper: INHERITED_FD },
    shared: null,
  });
  const child = spawn(file, rest, { stdio: ["pipe", "pipe", "ignore", disk.fd], env: { PATH: "/usr/bin:/bin" } });
  await disk.close();
  const { stdout: readable, stdin: writable } = child;
  if (readable === null || writable === null) throw new Error("QEMU has no streams");
  writable.on("error", () => undefined);
  const gone = once(child, "exit");
  const release = async (): Promise<void> => {
    child.kill("SIGKILL");
    await gone;
    await rm(upper, { force: true });
  };
  lab.defer(release);
  const configure = {
    hostGone: HostGone.exit,
    defaultUser: "user",
    allowSetuid: true,
    env: [],
    hostname: "",
    elevate: false,
    openFiles: 0n,
    filter: new Uint8Array(),
  };
  const channel = await Channel.attach({ readable, writable, fresh: true, configure, timeoutMs: BOOT_TIMEOUT_MS });
  const identity = {
    hostname: "bulkhead",
    rootDevice: "/dev/vda",
    upper: { device: "/dev/vdb" },
    resolver: "",
    pids: PIDS,
    memoryBytes: (MEMORY_MIB - 52) * MIB,
  };
  await prepareGuest({ channel, explain: async (error) => error }, identity);
  const ended = gone.then(() => ({ code: null, signal: "SIGKILL" as const, oomKilled: false, reason: null }));
  const plan = { process: { workdir: null } } as Plan;
  return { box: new Sandbox({ id, plan, channel, workdir: null, ended, release }), pid: child.pid ?? 0 };
}
