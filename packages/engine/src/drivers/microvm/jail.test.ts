import { describe, expect, test } from "vitest";
import { PROFILE } from "../container/seccomp/profile.ts";
import { SYSCALLS } from "../container/seccomp/syscalls.ts";
import { reachableCalls, vmmProfile } from "./filter.ts";
import { JAIL_USER, jailBundle, vmmFilter, VMM_OVERHEAD_BYTES, type JailRequest } from "./jail.ts";

/** What the issue of a jail is measured by. */
const MOST_CALLS = 67;
const GUEST_BYTES = 256 * 1024 * 1024;

const request: JailRequest = {
  argv: ["/usr/bin/qemu"],
  root: "/jail",
  idBase: 1_000_000,
  cgroup: "/bulkhead/x",
  kvm: false,
  cpus: 2,
  cpuLimit: 1.5,
  guestMemoryBytes: GUEST_BYTES,
  diskBytes: 4096,
  sharing: "none",
  user: JAIL_USER,
  binds: [{ source: "/img", inside: "/vm/root.erofs", readOnly: true }],
};
const host = { cgroup: { mode: "v2", controllers: [], swap: true } } as const;

interface Config {
  readonly root: { readonly readonly: boolean };
  readonly process: {
    readonly user: unknown;
    readonly capabilities: object;
    readonly noNewPrivileges: boolean;
    readonly rlimits: readonly { readonly type: string; readonly hard: number }[];
  };
  readonly mounts: readonly { readonly destination: string; readonly options: readonly string[] }[];
  readonly annotations: Readonly<Record<string, string>>;
  readonly linux: {
    readonly namespaces: readonly { readonly type: string }[];
    readonly uidMappings: unknown;
    readonly devices?: readonly { readonly path: string }[];
    readonly resources: {
      readonly devices: readonly { readonly allow: boolean; readonly major?: number }[];
      readonly memory: { readonly limit: number; readonly swap?: number };
    };
  };
}
const config = (changes: Partial<JailRequest> = {}): Config =>
  jailBundle({ ...request, ...changes }, vmmFilter("x64", false), host) as Config;

const SHARINGS = ["none", "read", "write"] as const;
const kinds = [true, false].flatMap((kvm) => SHARINGS.map((sharing) => ({ kvm, sharing })));

describe.each(kinds)("the filter, with KVM: $kvm, sharing: $sharing", ({ kvm, sharing }) => {
  const profile = vmmProfile(kvm, sharing);

  test(`lets at most ${MOST_CALLS} calls through`, () => {
    expect(reachableCalls(profile)).toBeLessThanOrEqual(MOST_CALLS);
    expect(new Set(profile.allowed).size).toBe(profile.allowed.length);
  });

  test("names only calls that exist: another name would be left out without a word", () => {
    const named = [...profile.allowed, ...profile.absent, ...profile.conditional.map(({ name }) => name)];
    expect(named.filter((name) => !SYSCALLS.x64.has(name))).toEqual([]);
  });

  test("lets nothing through that a container may not do", () => {
    const container = new Set([...PROFILE.allowed, ...PROFILE.conditional.map(({ name }) => name)]);
    expect(profile.allowed.filter((name) => !container.has(name))).toEqual([]);
  });

  test("reaches drivers only where one is needed", () => expect(profile.allowed.includes("ioctl")).toBe(kvm));

  test("makes threads and nothing else", () => {
    const [clone] = profile.conditional;
    const flags = clone?.alternatives.flat()[0];
    const CLONE_THREAD = 0x10000;
    const CLONE_NEWUSER = 0x10000000;
    expect(clone?.name).toBe("clone");
    expect(flags?.mask).toBe(0xffffffff);
    expect((flags?.value ?? 0) & CLONE_THREAD).toBe(CLONE_THREAD);
    expect((flags?.value ?? 0) & CLONE_NEWUSER).toBe(0);
    expect(profile.absent).toContain("clone3");
  });

  test.each([
    "socket",
    "connect",
    "fork",
    "vfork",
    "kill",
    "setuid",
    "mknod",
    "mknodat",
    "fchmod",
    "fchmodat",
    "open",
    "openat2",
    "lsetxattr",
    "rename",
    "mount",
    "move_mount",
    "open_by_handle_at",
    "ptrace",
    "seccomp",
    "memfd_create",
  ])("knows no %s", (name) => {
    expect(profile.allowed).not.toContain(name);
    expect(profile.conditional.map((call) => call.name)).not.toContain(name);
  });
});

test.each([true, false])("a filter has the calls of sharing only where something is shared, KVM: %s", (kvm) => {
  const names = (sharing: (typeof SHARINGS)[number]): readonly string[] => {
    const { allowed, conditional } = vmmProfile(kvm, sharing);
    return [...allowed, ...conditional.map(({ name }) => name)];
  };
  const beyond = (more: readonly string[], less: readonly string[]): readonly string[] =>
    more.filter((name) => !less.includes(name));
  for (const name of ["unlinkat", "chmod", "mkdirat", "ftruncate"]) expect(names("read")).not.toContain(name);
  expect(beyond(names("read"), names("none"))).toEqual([
    "getdents64",
    "fstatfs",
    "readlinkat",
    "lgetxattr",
    "llistxattr",
  ]);
  expect(beyond(names("none"), names("read"))).toEqual([]);
  expect(beyond(names("read"), names("write"))).toEqual([]);
});

test("no file is made or changed to run as its owner or group", () => {
  const { conditional, allowed } = vmmProfile(false, "write");
  const passes = (name: string, mode: number): boolean =>
    conditional
      .filter((call) => call.name === name)
      .some(({ alternatives }) => alternatives.some((tests) => tests.every((t) => (mode & t.mask) === t.value)));
  for (const name of ["openat", "chmod"]) {
    expect(allowed).not.toContain(name);
    for (const mode of [0o4755, 0o2755, 0o6000, 0o7777]) expect(passes(name, mode)).toBe(false);
    for (const mode of [0, 0o755, 0o1777, 0o100644]) expect(passes(name, mode)).toBe(true);
  }
});

describe("the jail", () => {
  test("is a user of its own without capabilities, in namespaces of its own", () => {
    const { process, linux } = config();
    expect(process).toMatchObject({
      capabilities: {},
      noNewPrivileges: true,
      user: JAIL_USER,
    });
    expect(linux.uidMappings).toEqual([{ containerID: 0, hostID: 1_000_000, size: 65_536 }]);
    expect(linux.namespaces.map(({ type }) => type).sort()).toEqual([
      "cgroup",
      "ipc",
      "mount",
      "network",
      "pid",
      "user",
      "uts",
    ]);
  });

  test("has a root that nobody writes to, and starts nothing from what is mounted", () => {
    const { root, mounts } = config();
    expect(root.readonly).toBe(true);
    for (const mount of mounts) expect(mount.options).toEqual(expect.arrayContaining(["nosuid", "noexec"]));
  });

  test("has a place for host directories only where some are shared, read-only itself", () => {
    const place = (sharing: JailRequest["sharing"]): readonly string[] =>
      config({ sharing }).mounts.find(({ destination }) => destination === "/vm/shared")?.options ?? [];
    expect(place("none")).toEqual([]);
    expect(place("write")).toEqual(expect.arrayContaining(["ro", "nodev"]));
  });

  test("bounds how large a file grows, unless that of a host directory, and how many are open", () => {
    const limit = (sharing: JailRequest["sharing"], name: string): number | undefined =>
      config({ sharing }).process.rlimits.find(({ type }) => type === `RLIMIT_${name}`)?.hard;
    expect([limit("none", "FSIZE"), limit("read", "FSIZE"), limit("write", "FSIZE")]).toEqual([4096, 4096, undefined]);
    for (const sharing of SHARINGS) expect(limit(sharing, "NOFILE")).toBeLessThanOrEqual(1024);
  });

  test("has /dev/kvm only where it is used", () => {
    expect(config().linux.devices).toBeUndefined();
    expect(config().linux.resources.devices.some(({ allow }) => allow)).toBe(false);
    expect(config({ kvm: true }).linux.devices?.map(({ path }) => path)).toEqual(["/dev/kvm"]);
  });

  test("counts the guest's memory and what QEMU needs besides", () => {
    const limit = 2 * GUEST_BYTES + VMM_OVERHEAD_BYTES;
    expect(config().linux.resources.memory).toEqual({ limit, swap: limit });
  });

  test("carries its filter compiled", () => {
    const program = Buffer.from(config().annotations["run.oci.seccomp_bpf_data"] ?? "", "base64");
    expect(program.length % 8).toBe(0);
    expect(program.length).toBeGreaterThan(0);
  });
});
