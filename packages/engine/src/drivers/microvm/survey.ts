import { createHash } from "node:crypto";
import { access, constants, mkdtemp, open, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { agentInitramfs } from "../../guest/initramfs.ts";
import type { HostFacts } from "../../host/facts.ts";
import { writeAtomically } from "../../host/file-cache.ts";
import { removeTree } from "../../system/remove-tree.ts";
import type { Help, Runtime } from "../driver.ts";
import { BareGuest } from "./boot.ts";
import { jailRoot } from "./jail-root.ts";
import type { KernelKind } from "../../guest/kernel-index.ts";
import { readModules } from "../../guest/modules.ts";
import { kernelCommandLine, qemuArgv, type Accelerator, type Boot } from "./qemu.ts";

/** What the machine turned out to be, true until the next boot at most. */
export interface Machinery {
  readonly accelerator: Accelerator;
  /** Why it is not KVM, or empty. */
  readonly why: string;
  /** As the processor names itself; a template is bound to it. */
  readonly cpuModel: string;
  /** Milliseconds since 1970 until which it counts; null until the next boot. */
  readonly until: number | null;
}

export interface Survey extends Machinery {
  readonly boot: Boot;
  /** What a jailed QEMU has as its root. */
  readonly jail: string;
}

export const KVM = "/dev/kvm";
const TRIAL_MEMORY_MIB = 128;
const CPUINFO_BYTES = 4096;
/**
 * A guest that was not ready in time may have been on a busy host, so it is tried again, but not by every command: a trial that
 * runs out of time holds its caller up for a minute.
 */
const BUSY_MS = 10 * 60_000;

/** @throws BulkheadError HOST_UNSUPPORTED, RUNTIME_FAILED, KEEPER_FAILED, ABORTED */
export async function survey(help: Help, runtime: Runtime): Promise<Survey> {
  const { host, signal } = help;
  const [boot, jail] = await Promise.all([bootFiles(host), jailRoot(host.paths.state, runtime.path, signal)]);
  const key = createHash("sha256")
    .update(
      JSON.stringify([
        host.bootId,
        runtime.digest,
        host.digests.agent,
        boot.kernel,
        kernelCommandLine({ kind: "kvm" }, boot.kind),
      ]),
    )
    .digest("hex");
  const path = join(host.paths.state, "cache", `machinery-${key.slice(0, 16)}.json`);
  const known = await remembered(path);
  if (known !== null) return { ...known, boot, jail };
  const found = await tried(help, runtime, boot);
  await writeAtomically(path, JSON.stringify(found)).catch(() => undefined);
  return { ...found, boot, jail };
}

async function remembered(path: string): Promise<Machinery | null> {
  try {
    const known = JSON.parse(await readFile(path, "utf8")) as Machinery;
    return known.until === null || Date.now() < known.until ? known : null;
  } catch {
    return null;
  }
}

async function bootFiles({ guestKernel, digests, paths }: HostFacts): Promise<Boot> {
  if (guestKernel === null) throw new BulkheadError("INTERNAL", { what: "there is no guest kernel to start" });
  const { modules, hash } = guestKernel;
  const named = [digests.agent, ...(modules === null ? [] : [hash])].map((digest) => digest.slice(0, 16)).join("-");
  const initramfs = join(paths.state, "guest", `initramfs-${named}`);
  const there = await access(initramfs).then(
    () => true,
    () => false,
  );
  if (!there)
    await writeAtomically(
      initramfs,
      agentInitramfs(await readFile(paths.agent), modules === null ? [] : await readModules(modules)),
    );
  return { kind: guestKernel.kind, kernel: guestKernel.vmlinux, initramfs };
}

async function tried(help: Help, runtime: Runtime, boot: Boot): Promise<Machinery> {
  const cpuModel = await processor();
  const no = await whyNotKvm(help, runtime, boot);
  if (no === null) return { accelerator: { kind: "kvm" }, why: "", cpuModel, until: null };
  const keeper = await help.keeper();
  const until = no.busy ? Date.now() + BUSY_MS : null;
  return { accelerator: { kind: "tcg", tscKhz: await keeper.counterKhz() }, why: no.why, cpuModel, until };
}

interface No {
  readonly why: string;
  /** The guest ran out of time. */
  readonly busy: boolean;
}

/** A device that opens proves nothing: under some hypervisors it opens and no guest ever runs. */
async function whyNotKvm({ onProgress, signal }: Help, runtime: Runtime, boot: Boot): Promise<No | null> {
  try {
    await using device = await open(KVM, constants.O_RDWR);
    void device;
  } catch (error) {
    return { why: `${KVM} cannot be opened (${(error as NodeJS.ErrnoException).code ?? "error"})`, busy: false };
  }
  onProgress?.("trying whether a guest runs with KVM");
  const dir = await mkdtemp(join(tmpdir(), "bulkhead-kvm-"));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => removeTree(dir, tmpdir()));
  const machine = {
    binary: runtime.path,
    kernel: boot.kind,
    accelerator: { kind: "kvm" },
    memoryMib: TRIAL_MEMORY_MIB,
    cpus: 1,
    consoleFd: null,
  } as const;
  try {
    await using _guest = await BareGuest.boot(machine, boot, join(dir, "mem"), { signal });
    return null;
  } catch (error) {
    if (!(error instanceof BulkheadError) || error.code === "ABORTED") throw error;
    const busy = error.code === "TIMEOUT";
    return { why: `${KVM} opens, but no guest runs with it: ${busy ? error.message : error.why}`, busy };
  }
}

async function processor(): Promise<string> {
  await using file = await open("/proc/cpuinfo");
  const { buffer, bytesRead } = await file.read(Buffer.alloc(CPUINFO_BYTES), 0, CPUINFO_BYTES, 0);
  const lines = buffer.subarray(0, bytesRead).toString().split("\n");
  const telling = /^(?:vendor_id|cpu family|model|model name|stepping|microcode|flags)\s*:/;
  return lines.filter((line) => telling.test(line)).join("\n");
}

/**
 * Changes when QEMU's command line or the guest kernel's does: what was saved by one is read by none other. How fast the
 * host's counter is does not belong to it: that is measured at each boot of the host, and snapshots outlive one.
 */
export function argvGeneration({ kind }: Accelerator, kernel: KernelKind): string {
  const accelerator: Accelerator = kind === "kvm" ? { kind } : { kind, tscKhz: 0 };
  const machine = { binary: "", accelerator, kernel, memoryMib: 1, cpus: 1, consoleFd: null };
  const start = {
    kind: "clone",
    disks: { root: "", upper: null },
    memory: "",
    control: "",
    devicesOnly: false,
    shared: { path: "", readOnly: true },
  } as const;
  return JSON.stringify([qemuArgv(machine, start), kernelCommandLine(accelerator, kernel)]);
}
