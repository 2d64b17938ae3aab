import { type ChildProcess, spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import type { Duplex } from "node:stream";
import { exists } from "./common.ts";
import type { HostDisks } from "./disks.ts";

export const QEMU = "qemu-system-x86_64";
/** Descriptors that QEMU inherits; both are sockets. */
const QMP_FD = 3;
const AGENT_FD = 4;
const PORT_NAME = "bulkhead.testhost";
const MEMORY_MIB = 4096;
/** With two, QEMU's emulation now and then corrupts a program's memory or stops a nested guest for good. */
const CPUS = 1;
/** Of what the kernel and QEMU said last. */
const CONSOLE_CHARACTERS = 4000;
/**
 * What a guest is told of a disk that is not there yet. It keeps the size it learns when it boots, a file system knows its
 * own, and QEMU refuses what lies behind the end of the real file.
 */
const PLACEHOLDER_BYTES = 2 ** 40;

export interface Boot {
  readonly kernel: string;
  readonly initramfs: string;
  readonly system: string;
}

/** A template has no disks but the system's, to which it writes nothing; its memory is shared with the file. */
export type Start =
  | { readonly kind: "cold"; readonly disks: HostDisks }
  | { readonly kind: "template"; readonly memory: string }
  | { readonly kind: "clone"; readonly memory: string; readonly disks: HostDisks };

/** A started QEMU. It dies with this process, however that dies. */
export interface Machine extends AsyncDisposable {
  readonly agent: Duplex;
  readonly qmp: Duplex;
  /** Resolves when QEMU has ended. */
  readonly ended: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
  /** The end of what the kernel and QEMU have said. */
  console(): string;
}

/** One command line of QEMU. A clone's machine is its template's to the letter, so all starts share their parts. */
export function machineArgv(boot: Boot, start: Start, tscKhz: number): readonly string[] {
  const disks = start.kind === "template" ? null : start.disks;
  return [
    QEMU,
    ...["-M", "microvm,acpi=on,pit=off,pic=off,rtc=on,memory-backend=mem"],
    ...["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "EPYC-Milan,+svm,+npt,-pcid,-pku"],
    ...["-m", `${MEMORY_MIB}`, "-smp", `${CPUS}`, "-object", memoryBackend(start)],
    ...["-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-monitor", "none"],
    ...["-global", "virtio-mmio.force-legacy=false"],
    ...["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"],
    ...["-device", "virtio-serial-device,max_ports=2", "-chardev", `socket,id=agent,fd=${AGENT_FD}`],
    ...["-device", `virtserialport,chardev=agent,nr=1,name=${PORT_NAME}`],
    ...["-chardev", `socket,id=qmp,fd=${QMP_FD}`, "-mon", "chardev=qmp,mode=control"],
    ...disk("system", boot.system, false),
    ...disk("tools", disks?.tools ?? null, true),
    ...disk("images", disks?.images ?? null, false),
    ...disk("source", disks?.source ?? null, false),
    ...disk("packages", disks?.packages ?? null, true),
    ...(start.kind === "clone"
      ? ["-incoming", "defer"]
      : ["-kernel", boot.kernel, "-initrd", boot.initramfs, "-append", kernelCommandLine(tscKhz)]),
  ];
}

function kernelCommandLine(tscKhz: number): string {
  return [
    ...["console=ttyS0", "quiet", "loglevel=3", "panic=-1", "reboot=t"],
    // Under emulation the guest's time stamp counter is the host's; a guest that measures it hangs on a busy host.
    ...[`tsc_early_khz=${tscKhz}`, "tsc=reliable", "no_timer_check"],
    ...["cryptomgr.notests", "mitigations=off", "random.trust_cpu=on", "rcupdate.rcu_expedited=1"],
    ...["apparmor=1", "security=apparmor"],
  ].join(" ");
}

function memoryBackend(start: Start): string {
  const size = `id=mem,size=${MEMORY_MIB}M`;
  if (start.kind === "cold") return `memory-backend-ram,${size}`;
  return `memory-backend-file,${size},mem-path=${start.memory},share=${start.kind === "template" ? "on" : "off"}`;
}

/** Nothing that is written reaches the file: QEMU keeps it in a file without a name, which ends with it. */
function disk(name: string, path: string | null, readOnly: boolean): string[] {
  const device = ["-device", `virtio-blk-device,drive=${name}`];
  const mode = `readonly=${readOnly ? "on" : "off"}`;
  if (path === null) {
    const blank = `driver=null-co,node-name=${name},size=${PLACEHOLDER_BYTES},read-zeroes=on`;
    return ["-blockdev", `${blank},read-only=${readOnly ? "on" : "off"}`, ...device];
  }
  const file = `file=${path.replaceAll(",", ",,")},format=raw,if=none,id=${name},file.locking=off`;
  return ["-drive", `${file},${mode},snapshot=${readOnly ? "off" : "on"}`, ...device];
}

export function startMachine(argv: readonly string[], temporary: string): Machine {
  // Everything QEMU says goes to one place; a death of this process, of whatever kind, takes it along.
  const child = spawn("setpriv", ["--pdeathsig", "KILL", ...argv], {
    stdio: ["ignore", "pipe", "pipe", "pipe", "pipe"],
    env: { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", TMPDIR: temporary },
    // Out of reach of the terminal's Ctrl-C, so that this process is the one that ends it.
    detached: true,
  });
  const said = { text: "" };
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on(
      "data",
      (chunk: Buffer) => (said.text = (said.text + chunk.toString("latin1")).slice(-CONSOLE_CHARACTERS)),
    );
  }
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once("close", (code, signal) => resolve({ code, signal }));
    child.once("error", (error) => {
      said.text += error.message;
      if (child.pid === undefined) resolve({ code: null, signal: null });
    });
  });
  return {
    agent: duplex(child, AGENT_FD),
    qmp: duplex(child, QMP_FD),
    ended,
    console: () => said.text.replaceAll(/[^\n\x20-\x7e]/g, "").trim(),
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

function duplex(child: ChildProcess, fd: number): Duplex {
  const stream = child.stdio[fd] as Duplex;
  // The other end's death is told by `ended`.
  stream.on("error", () => {});
  return stream;
}

/** kHz of this host's time stamp counter, as its kernel says it. */
export async function hostTscKhz(): Promise<number> {
  const base = "/sys/devices/system/cpu/cpu0/cpufreq/base_frequency";
  if (await exists(base)) return Number.parseInt(await readFile(base, "utf8"), 10);
  const mhz = /^cpu MHz\s*:\s*([0-9.]+)$/m.exec(await readFile("/proc/cpuinfo", "utf8"))?.[1];
  if (mhz === undefined) throw new Error("/proc/cpuinfo does not say how fast this processor's clock is");
  return Math.round(Number(mhz) * 1000);
}
