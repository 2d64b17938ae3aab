import { describe, expect, test } from "vitest";
import { ALLOW } from "../../../seccomp/bpf.ts";
import { compileGiven } from "../../../seccomp/given.ts";
import { parseProfile } from "../../../seccomp/parse.ts";
import { AUDIT_ARCH, HIGHEST_ASSIGNED, SYSCALLS, type Architecture } from "../../../seccomp/syscalls.ts";
import { run } from "../../../testing/bpf.ts";
import { compile } from "./compile.ts";
import { learnedProfile, type SeenCall } from "./learn.ts";
import { PROFILE } from "./profile.ts";

interface Learned {
  readonly syscalls: readonly { readonly names: readonly string[]; readonly action: string; readonly args?: unknown }[];
}

const seen = (arch: Architecture, name: string, argument = 0n): SeenCall => ({
  number: SYSCALLS[arch].get(name)!,
  argument,
});
const learn = (calls: readonly SeenCall[], arch: Architecture = "x64", merged?: string): Learned =>
  learnedProfile(calls, arch, merged === undefined ? undefined : { name: "m.json", json: merged }) as Learned;
const names = ({ syscalls }: Learned): readonly string[] =>
  syscalls.filter(({ action }) => action === "SCMP_ACT_ALLOW").flatMap((entry) => entry.names);

const NEVER = [
  "ptrace",
  "bpf",
  "keyctl",
  "add_key",
  "request_key",
  "io_uring_setup",
  "io_uring_enter",
  "userfaultfd",
  "perf_event_open",
  "mount",
  "umount2",
  "move_mount",
  "fsopen",
  "fsmount",
  "open_tree",
  "pivot_root",
  "unshare",
  "setns",
  "init_module",
  "finit_module",
  "delete_module",
  "kexec_load",
  "kexec_file_load",
  "open_by_handle_at",
  "clone3",
  "process_vm_readv",
  "process_vm_writev",
  "mincore",
  "reboot",
  "swapon",
  "acct",
  "quotactl",
];

describe.each(["x64", "arm64"] as const)("a learned profile for %s", (arch) => {
  const profileOf = (calls: readonly SeenCall[]) => {
    const native = { arch, kernelRelease: "6.1", capabilities: [] };
    return compileGiven(parseProfile("l.json", JSON.stringify(learn(calls, arch)), native), arch).program;
  };
  const trace = [...SYSCALLS[arch].values()].flatMap((number) =>
    [0n, 1n, 2n, 10n, 16n, 40n, 0xffffffffn].map((argument) => ({ number, argument })),
  );

  test("lets through nothing that the container's own refuses, whatever a trace claims", () => {
    const learned = profileOf(trace);
    const ours = compile(PROFILE, arch);
    for (let number = 0; number <= HIGHEST_ASSIGNED; number += 1) {
      for (const argument of [0n, 1n, 2n, 16n, 40n, 0x10000000n, 0x7e020000n, 0xffffffffn, 1n << 40n]) {
        const call = { number, arch: AUDIT_ARCH[arch], args: [argument, 0n, 0n, 0n, 0n, 0n] };
        if (run(learned, call) === ALLOW) expect({ ...call, ours: run(ours, call) }).toEqual({ ...call, ours: ALLOW });
      }
    }
    const flat = names(learn(trace, arch));
    expect(NEVER.filter((name) => flat.includes(name))).toEqual([]);
  });

  test("lets through what was seen, and starts of processes together", () => {
    const learned = names(learn([seen(arch, "mkdirat"), seen(arch, "clone")], arch));
    expect(learned).toEqual(expect.arrayContaining(["mkdirat", "clone", "execve", "exit_group"]));
    expect(learned).not.toContain("unlinkat");
    expect(learned.includes("fork")).toBe(SYSCALLS[arch].has("fork"));
    expect(names(learn([], arch))).not.toContain("clone");
  });

  test("what is pretended to be absent stays absent: libraries fall back on nothing else", () => {
    const ENOSYS = 38;
    const args = [0n, 0n, 0n, 0n, 0n, 0n];
    const verdict = run(profileOf([]), { number: SYSCALLS[arch].get("clone3")!, arch: AUDIT_ARCH[arch], args });
    expect(verdict).toBe(0x00050000 | ENOSYS);
  });
});

test("names are sorted, and families and personalities are those seen", () => {
  const learned = learn([
    seen("x64", "socket", 10n),
    seen("x64", "socket", 1n),
    seen("x64", "socket", 40n),
    seen("x64", "personality", 0xffffffffn),
  ]);
  const [plain] = learned.syscalls;
  expect(plain?.names).toEqual([...(plain?.names ?? [])].sort());
  const args = learned.syscalls.filter(({ names: [name], action }) => name === "socket" && action === "SCMP_ACT_ALLOW");
  expect(args.map((entry) => entry.args)).toEqual(
    [1, 10].map((family) => [{ index: 0, value: 0xffffffff, valueTwo: family, op: "SCMP_CMP_MASKED_EQ" }]),
  );
  expect(names(learned)).toContain("personality");
});

test("merging adds, and learned again it is the same", () => {
  const before = JSON.stringify(learn([seen("x64", "mkdir"), seen("x64", "socket", 2n), seen("x64", "clone")]));
  const merged = learn([seen("x64", "rmdir")], "x64", before);
  expect(names(merged)).toEqual(expect.arrayContaining(["mkdir", "rmdir", "socket", "clone"]));
  expect(learn([], "x64", JSON.stringify(merged))).toEqual(merged);
});

test("a rule that says more than a learned one is not merged in part", () => {
  const foreign = {
    defaultAction: "SCMP_ACT_ERRNO",
    syscalls: [{ names: ["ioctl"], action: "SCMP_ACT_ALLOW", args: [{ index: 1, value: 21505, op: "SCMP_CMP_EQ" }] }],
  };
  expect(() => learn([], "x64", JSON.stringify(foreign))).toThrow(
    expect.objectContaining({ code: "SPEC_INVALID", message: expect.stringMatching(/ioctl/) }),
  );
});
