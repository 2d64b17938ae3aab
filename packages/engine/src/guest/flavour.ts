import type { KernelKind } from "./kernel-index.ts";

/** What QEMU and the kernel's command line must say besides what is the same for every guest kernel. */
export interface KernelFlavour {
  /** Options of QEMU's `microvm` machine, to stand behind `-M microvm,`. */
  readonly machine: string;
  /** QEMU's arguments besides. */
  readonly arguments: readonly string[];
  /** Words for the kernel's command line, whatever the accelerator. */
  readonly commandLine: readonly string[];
  /** The modules of its record go into the initial root, where the agent loads them. */
  readonly needsModules: boolean;
  /** It can mount what QEMU serves of the host's directories. */
  readonly sharesDirectories: boolean;
}

/** Without ACPI and PCI built in, QEMU names its virtio devices on the command line; timers need the PIT and its PIC. */
const OWN: KernelFlavour = {
  machine: "acpi=off,pit=on,pic=on,rtc=on",
  arguments: [],
  commandLine: [],
  needsModules: false,
  sharesDirectories: true,
};

/**
 * Debian's virtio_mmio takes no devices from the command line: it finds them by ACPI. With ACPI the PIT and the PIC are
 * one more thing to measure and nothing more. Without an RTC the kernel waits two seconds for it.
 */
const STOCK: KernelFlavour = {
  machine: "acpi=on,pit=off,pic=off,rtc=on",
  // With ACPI QEMU takes SeaBIOS, which a jail of QEMU's does not hold; a kernel that starts by PVH needs none of it.
  arguments: ["-bios", "qboot.rom"],
  commandLine: [
    // Self tests of ciphers take a sixth of the start, the search for serial ports some more.
    ...["cryptomgr.notests", "8250.nr_uarts=0"],
    // As in our own kernel: programs inside may confine themselves; the others have no policy to enforce.
    "lsm=landlock,yama",
    // Our own does not clear memory twice either; it takes a tenth of the start.
    "init_on_alloc=0",
  ],
  needsModules: true,
  // Debian builds it without 9p.
  sharesDirectories: false,
};

export function kernelFlavour(kind: KernelKind): KernelFlavour {
  switch (kind) {
    case "own":
      return OWN;
    case "stock":
      return STOCK;
  }
}
