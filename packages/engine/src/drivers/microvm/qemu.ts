import { kernelFlavour } from "../../guest/flavour.ts";
import type { KernelKind } from "../../guest/kernel-index.ts";

/**
 * QEMU's command line for its `microvm` machine, as pure functions. A clone's machine must be the template's to the letter,
 * so all three kinds of start are made of the same parts.
 */

/** `port.rs` of the agent looks for this name. */
const AGENT_PORT = "bulkhead.agent";
/** Port 0 of a virtio-serial device is a console's, in the standard's words. */
const AGENT_PORT_NUMBER = 1;
const SERIAL_PORTS = 2;
const THROTTLE_GROUP = "disks";
const CONSOLE_FD_SET = 1;
const UPPER_FD_SET = 2;
/**
 * What a guest is told of a disk that is not there yet. It learns a disk's size when it boots and keeps it in all clones;
 * a file system knows its own size, and QEMU refuses what lies behind the end of the real file.
 */
export const PLACEHOLDER_BYTES = 2 ** 40;

/** What the guest calls the device that serves host directories. */
export const SHARED_TAG = "shared";

/**
 * Most that emulation keeps of translated code. QEMU's own default is a gigabyte, which a guest could make it fill. Times do
 * not differ between 32 and 512.
 */
export const TRANSLATED_MIB = 64;
/**
 * Discards reach the file: what a sandbox deletes takes no room on the host. The host caches none of it: what a guest writes
 * would count as QEMU's memory, and dirty pages that come faster than the disk takes them would have it killed.
 */
const WRITABLE = "discard=unmap,cache.direct=on";
/** What is thrown away in the end is not flushed. */
const UNFLUSHED = ",cache.no-flush=on";

/**
 * All that emulation knows, but for strings that are moved fast by one instruction: a processor does, emulation goes byte by
 * byte, where kernels and C libraries move eight or 32 at a time without it. A pipe is five times as fast so.
 */
const EMULATED_CPU = "max,erms=off,fsrm=off";

export type Accelerator =
  | { readonly kind: "kvm" }
  /** The guest's time stamp counter is the host's under emulation; unknown, guests hang while they measure it. */
  | { readonly kind: "tcg"; readonly tscKhz: number };

/** All that a template is bound to besides QEMU's build, the kernel and the agent. */
export interface Machine {
  readonly binary: string;
  readonly accelerator: Accelerator;
  /** What QEMU's machine must have differs with it. */
  readonly kernel: KernelKind;
  readonly memoryMib: number;
  readonly cpus: number;
  /**
   * Inherited descriptor that takes what the guest's kernel says last, null for nowhere; not part of what a template is
   * bound to. Above 2 and opened for writing only, as QEMU wants it. A reader that stalls stalls the guest's console and nothing else.
   */
  readonly consoleFd: number | null;
  /** Of all disks together, each for reading and for writing; not part of what a template is bound to. */
  readonly throttle?: Throttle;
  /** What is written stays after the end: what the guest has flushed is on the host's disk. Not part of what a template is bound to. */
  readonly keepsDisk?: boolean;
}

/** Operations and bytes a second, null for no limit. */
export interface Throttle {
  readonly iops: number | null;
  readonly bytesPerSecond: number | null;
}

export interface Boot {
  readonly kind: KernelKind;
  /** An ELF file that starts by PVH, and a cpio archive that holds the agent as `/init`. */
  readonly kernel: string;
  readonly initramfs: string;
}

/** Paths as QEMU sees them. */
export interface Disks {
  /** EROFS image, `/dev/vda` in the guest. */
  readonly root: string;
  /** Inherited descriptor of an empty ext4, open both ways, `/dev/vdb`; null gives a device without contents. */
  readonly upper: number | null;
}

/** A directory whose subdirectories the guest is to see, as QEMU sees it. */
export interface Shared {
  readonly path: string;
  readonly readOnly: boolean;
}

/** Without `shared` the machine has no device for it; what a clone has its template must have, though with nothing in it. */
export type Start = { readonly shared: Shared | null } & (
  | { readonly kind: "cold"; readonly boot: Boot; readonly disks: Disks }
  /** Guest memory is written to the file at `memory`, through a shared mapping; `qmp` is a control socket to listen on. */
  | { readonly kind: "template"; readonly boot: Boot; readonly memory: string; readonly qmp: string }
  /**
   * `memory` is mapped privately: no clone writes to it. QEMU opens it for writing all the same, so it has to be a memory
   * file sealed against writing. `control` is the path of two FIFOs, `.in` with `cloneCommands` in it and `.out`.
   */
  | {
      readonly kind: "clone";
      readonly disks: Disks;
      readonly memory: string;
      readonly control: string;
      /** The state to wake from is that of the devices alone, as a running clone's is saved: no configuration before it. */
      readonly devicesOnly: boolean;
    }
);

/** The channel is standard input and output, as it is for the agent itself at other levels. */
export function qemuArgv(machine: Machine, start: Start): readonly string[] {
  const ports = [...channel(), ...console(machine.consoleFd)];
  return [machine.binary, ...machineArguments(machine), ...ports, ...startArguments(machine, start), ...shared(start)];
}

/** Written to a clone's control FIFO before it starts. The saved state is read from an inherited descriptor. */
export function cloneCommands(stateFd: number): string {
  const ignoreShared = [{ capability: "x-ignore-shared", state: true }];
  return [
    { execute: "qmp_capabilities" },
    { execute: "migrate-set-capabilities", arguments: { capabilities: ignoreShared } },
    { execute: "migrate-incoming", arguments: { uri: `fd:${stateFd}` } },
  ]
    .map((command) => `${JSON.stringify(command)}\n`)
    .join("");
}

/**
 * Said to a template on its control socket once the agent is ready; it connects to the socket at `statePath` and writes its
 * state there. It is not stopped before, so that clones wake running.
 */
export function templateCommands(statePath: string): readonly object[] {
  return [
    { execute: "qmp_capabilities" },
    {
      execute: "migrate-set-capabilities",
      arguments: { capabilities: [{ capability: "x-ignore-shared", state: true }] },
    },
    // The default of 128 MiB/s holds a template back.
    { execute: "migrate-set-parameters", arguments: { "max-bandwidth": 10 * 2 ** 30 } },
    { execute: "migrate", arguments: { uri: `unix:${statePath}` } },
  ];
}

export function kernelCommandLine(accelerator: Accelerator, kernel: KernelKind): string {
  const always = [
    ...kernelFlavour(kernel).commandLine,
    // A guest that is broken ends at once, which ends QEMU (-no-reboot). Without ACPI the way to end is a triple fault.
    ...["panic=-1", "reboot=t"],
    // Of the console only what is an emergency: each line costs an exit.
    ...["console=hvc0", "quiet", "loglevel=1"],
    ...["random.trust_cpu=on", "rcupdate.rcu_expedited=1"],
    // Handed to init by the kernel, which does not know it.
    "--guest",
  ];
  if (accelerator.kind === "kvm") return always.join(" ");
  const emulated = [
    `tsc_early_khz=${accelerator.tscKhz}`,
    ...["tsc=reliable", "no_timer_check"],
    // Patching lock prefixes out of a kernel with one processor costs emulation a tenth of the start.
    "noreplace-smp",
    // They guard against a processor's speculation, which the guest's own code never reaches under emulation.
    "mitigations=off",
  ];
  return [...emulated, ...always].join(" ");
}

function machineArguments({ accelerator, kernel, memoryMib, cpus }: Machine): string[] {
  const kvm = accelerator.kind === "kvm";
  return [
    ...["-M", `microvm,${kernelFlavour(kernel).machine},memory-backend=mem`],
    ...kernelFlavour(kernel).arguments,
    ...["-accel", kvm ? "kvm" : `tcg,thread=${cpus > 1 ? "multi" : "single"},tb-size=${TRANSLATED_MIB}`],
    ...["-cpu", kvm ? "host" : EMULATED_CPU],
    ...["-m", `${memoryMib}`, "-smp", `${cpus}`],
    ...["-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "none", "-monitor", "none"],
    ...["-global", "virtio-mmio.force-legacy=false"],
  ];
}

function channel(): string[] {
  return [
    ...["-device", `virtio-serial-device,max_ports=${SERIAL_PORTS}`],
    ...["-chardev", "stdio,id=agent,signal=off"],
    ...["-device", `virtserialport,chardev=agent,name=${AGENT_PORT},nr=${AGENT_PORT_NUMBER}`],
  ];
}

function console(fd: number | null): string[] {
  const device = ["-device", "virtconsole,chardev=console,nr=0"];
  if (fd === null) return ["-chardev", "null,id=console", ...device];
  // A descriptor set: opening /proc/self/fd/N would ask for rights that QEMU's user does not have.
  const set = ["-add-fd", `fd=${fd},set=${CONSOLE_FD_SET}`];
  // Appending, or QEMU would truncate it, which a FIFO refuses.
  return [...set, "-chardev", `file,id=console,path=/dev/fdset/${CONSOLE_FD_SET},append=on`, ...device];
}

function startArguments(machine: Machine, start: Start): string[] {
  switch (start.kind) {
    case "cold":
      return [...memory(machine, null), ...boot(machine, start.boot), ...disks(start.disks, machine)];
    case "template":
      return [
        ...memory(machine, { path: start.memory, shared: true }),
        ...boot(machine, start.boot),
        ...placeholder(0, true),
        ...placeholder(1, false),
        ...[
          "-chardev",
          `socket,id=qmp,path=${escaped(start.qmp)},server=on,wait=off`,
          "-mon",
          "chardev=qmp,mode=control",
        ],
      ];
    case "clone":
      return [
        ...memory(machine, { path: start.memory, shared: false }),
        ...disks(start.disks, machine),
        ...["-chardev", `pipe,id=qmp,path=${escaped(start.control)}`, "-mon", "chardev=qmp,mode=control"],
        ...(start.devicesOnly ? ["-global", "migration.send-configuration=off"] : []),
        ...["-incoming", "defer"],
      ];
  }
}

function boot({ accelerator, kernel: kind }: Machine, { kernel, initramfs }: Boot): string[] {
  return ["-kernel", kernel, "-initrd", initramfs, "-append", kernelCommandLine(accelerator, kind)];
}

function memory({ memoryMib }: Machine, file: { readonly path: string; readonly shared: boolean } | null): string[] {
  const size = `id=mem,size=${memoryMib}M`;
  if (file === null) return ["-object", `memory-backend-ram,${size}`];
  return ["-object", `memory-backend-file,${size},mem-path=${escaped(file.path)},share=${file.shared ? "on" : "off"}`];
}

function disks({ root, upper }: Disks, { throttle, keepsDisk = false }: Machine): string[] {
  const group = throttleGroup(throttle);
  const throttled = group.length > 0;
  const first = [...group, ...disk(0, root, "read-only=on", throttled)];
  if (upper === null) return [...first, ...placeholder(1, false)];
  const set = ["-add-fd", `fd=${upper},set=${UPPER_FD_SET}`];
  const mode = `read-only=off,${WRITABLE}${keepsDisk ? "" : UNFLUSHED}`;
  return [...first, ...set, ...disk(1, `/dev/fdset/${UPPER_FD_SET}`, mode, throttled)];
}

/** One for all disks: what a guest reads of its image and writes to its layer comes out of the same allowance. */
function throttleGroup({ iops, bytesPerSecond }: Throttle = { iops: null, bytesPerSecond: null }): string[] {
  const limits = [
    ...(iops === null ? [] : [`x-iops-read=${iops},x-iops-write=${iops}`]),
    ...(bytesPerSecond === null ? [] : [`x-bps-read=${bytesPerSecond},x-bps-write=${bytesPerSecond}`]),
  ];
  return limits.length === 0 ? [] : ["-object", `throttle-group,id=${THROTTLE_GROUP},${limits.join(",")}`];
}

function disk(index: number, path: string, options: string, throttled: boolean): string[] {
  const file = `driver=file,filename=${escaped(path)},node-name=file${index},locking=off,${options}`;
  const raw = `driver=raw,file=file${index},node-name=${throttled ? "raw" : "disk"}${index},${options}`;
  const filter = `driver=throttle,throttle-group=${THROTTLE_GROUP},file=raw${index},node-name=disk${index},${options}`;
  return ["-blockdev", file, "-blockdev", raw, ...(throttled ? ["-blockdev", filter] : []), ...blockDevice(index)];
}

function placeholder(index: number, readOnly: boolean): string[] {
  const mode = `read-only=${readOnly ? "on" : "off"}`;
  const size = `size=${PLACEHOLDER_BYTES},read-zeroes=on`;
  return ["-blockdev", `driver=null-co,node-name=disk${index},${size},${mode}`, ...blockDevice(index)];
}

function blockDevice(index: number): string[] {
  // A full disk of the host's is an error that the guest is told of; QEMU would stop the guest without a word.
  const errors = "werror=report,rerror=report";
  return ["-device", `virtio-blk-device,drive=disk${index},serial=disk${index},${errors}`];
}

/**
 * No ids are mapped and no attributes kept aside (`none`): what is there outside is what is seen inside, links and modes
 * included, and what the guest makes is a plain file of QEMU's own user. Files of several file systems get numbers that
 * differ.
 */
function shared({ shared: what }: Start): string[] {
  if (what === null) return [];
  const options = `security_model=none,multidevs=remap,readonly=${what.readOnly ? "on" : "off"}`;
  return [
    ...["-fsdev", `local,id=shared,path=${escaped(what.path)},${options}`],
    ...["-device", `virtio-9p-device,fsdev=shared,mount_tag=${SHARED_TAG}`],
  ];
}

/** In QEMU's options a comma ends a value; doubled it stands for itself. */
function escaped(path: string): string {
  return path.replaceAll(",", ",,");
}
