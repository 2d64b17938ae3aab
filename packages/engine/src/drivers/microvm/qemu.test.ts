import { describe, expect, test } from "vitest";
import { cloneCommands, kernelCommandLine, qemuArgv, templateCommands, type Machine, type Start } from "./qemu.ts";

const machine: Machine = {
  binary: "/usr/bin/qemu",
  accelerator: { kind: "tcg", tscKhz: 2_596_148 },
  kernel: "own",
  memoryMib: 256,
  cpus: 1,
  consoleFd: 7,
};
const boot = { kind: "own", kernel: "/k", initramfs: "/i" } as const;
const shared = null;
const starts: Readonly<Record<Start["kind"], Start>> = {
  cold: { kind: "cold", boot, disks: { root: "/r", upper: 4 }, shared },
  template: { kind: "template", boot, memory: "/m", qmp: "/q", shared },
  clone: { kind: "clone", disks: { root: "/r", upper: null }, memory: "/proc/self/fd/4", control: "/c/qmp", shared },
};

const after = (argv: readonly string[], option: string): string[] =>
  argv.flatMap((word, index) => (argv[index - 1] === option ? [word] : []));

describe.each(Object.values(starts))("a $kind start", (start) => {
  const argv = qemuArgv(machine, start);

  test("has the same devices in the same order as every other", () => {
    const names = (words: readonly string[]): string[] =>
      after(words, "-device").map((word) => word.replace(/,.*/, ""));
    expect(names(argv)).toEqual(names(qemuArgv(machine, starts.cold)));
  });

  test("has no network, no balloon, no monitor that a guest or another user could reach", () => {
    const words = argv.join(" ");
    expect(words).toContain("-nodefaults -no-user-config");
    expect(words).toContain("-monitor none");
    for (const word of ["netdev", "-net", "balloon", "vnc", "tcp:", "telnet", "-sandbox", "virtfs"])
      expect(words).not.toContain(word);
  });

  test("with host directories has one device more, the last", () => {
    const names = after(qemuArgv(machine, { ...start, shared: { path: "/s", readOnly: false } }), "-device");
    expect(names.slice(0, -1)).toEqual(after(argv, "-device"));
    expect(names.at(-1)).toContain("virtio-9p-device");
  });

  test("opens the image for reading only", () => {
    for (const word of after(argv, "-blockdev").filter((text) => text.includes("disk0")))
      expect(word).toContain("read-only=on");
  });
});

test("a clone maps the template's memory privately, a template shares it with its file", () => {
  expect(after(qemuArgv(machine, starts.clone), "-object")).toEqual([
    "memory-backend-file,id=mem,size=256M,mem-path=/proc/self/fd/4,share=off",
  ]);
  expect(after(qemuArgv(machine, starts.template), "-object")[0]).toContain("mem-path=/m,share=on");
});

test("a clone boots nothing", () => {
  const argv = qemuArgv(machine, starts.clone);
  for (const option of ["-kernel", "-initrd", "-append"]) expect(argv).not.toContain(option);
  expect(after(argv, "-incoming")).toEqual(["defer"]);
});

test("host directories are served as they are, and for reading only where all are", () => {
  const served = (readOnly: boolean): string =>
    after(qemuArgv(machine, { ...starts.clone, shared: { path: "/s", readOnly } }), "-fsdev").join();
  expect(served(true)).toBe("local,id=shared,path=/s,security_model=none,multidevs=remap,readonly=on");
  expect(served(false)).toContain("readonly=off");
});

test("commas in paths stay in paths", () => {
  const argv = qemuArgv(machine, { ...starts.cold, disks: { root: "/a,read-only=off", upper: null } } as Start);
  expect(argv.join("\n")).toContain("filename=/a,,read-only=off,");
});

test("a console that leads nowhere is the same device", () => {
  const argv = qemuArgv({ ...machine, consoleFd: null }, starts.clone);
  expect(argv).toContain("null,id=console");
  expect(argv).not.toContain("-add-fd");
});

describe("the kernel's command line", () => {
  test("under emulation tells the clock's rate: without it guests hang while they measure", () => {
    expect(kernelCommandLine(machine.accelerator, "own")).toContain("tsc_early_khz=2596148");
    expect(kernelCommandLine(machine.accelerator, "own")).toContain("mitigations=off");
  });

  test("differs with the kernel, and so does the machine", () => {
    const stock = qemuArgv({ ...machine, kernel: "stock" }, starts.clone).join(" ");
    expect(stock).toContain("microvm,acpi=on,");
    expect(qemuArgv(machine, starts.clone).join(" ")).toContain("microvm,acpi=off,");
    expect(kernelCommandLine(machine.accelerator, "stock")).toContain("cryptomgr.notests");
  });

  test("under KVM leaves the kernel's guards on", () => {
    expect(kernelCommandLine({ kind: "kvm" }, "own")).not.toMatch(/mitigations|tsc/);
  });

  test("hands --guest to init without a separator, behind which QEMU's device list would be lost", () => {
    expect(kernelCommandLine({ kind: "kvm" }, "own")).toMatch(/ --guest$/);
    expect(kernelCommandLine({ kind: "kvm" }, "own")).not.toContain(" -- ");
  });
});

test("commands are one JSON object a line, capabilities first", () => {
  const lines = cloneCommands(3)
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as { execute: string });
  expect(lines.map((line) => line.execute)).toEqual([
    "qmp_capabilities",
    "migrate-set-capabilities",
    "migrate-incoming",
  ]);
  expect(cloneCommands(3)).toContain('"uri":"fd:3"');
  expect(JSON.stringify(templateCommands("/s"))).toContain('"uri":"unix:/s"');
});
