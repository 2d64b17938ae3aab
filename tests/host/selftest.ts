import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { config } from "./config.ts";
import { SOURCE_INSIDE, type TestHost } from "./test-host.ts";

/** A virtual processor whose first instruction is HLT, by KVM's own interface: nothing but real virtualisation ends it so. */
const KVM_RUNS = `python3 -c '
import fcntl, mmap, os, struct
kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
vm = fcntl.ioctl(kvm, 0xAE01, 0)
memory = mmap.mmap(-1, 4096)
memory[0:1] = b"\\xf4"
import ctypes
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(vm, 0x4020AE46, struct.pack("IIQQQ", 0, 0, 0, 4096, address))
cpu = fcntl.ioctl(vm, 0xAE41, 0)
size = fcntl.ioctl(kvm, 0xAE04, 0)
run = mmap.mmap(cpu, size)
sregs = bytearray(312)
fcntl.ioctl(cpu, 0x8138AE83, sregs)
struct.pack_into("QIH", sregs, 0, 0, 0xFFFF, 0)
fcntl.ioctl(cpu, 0x4138AE84, bytes(sregs))
regs = bytearray(144)
struct.pack_into("Q", regs, 136, 2)
fcntl.ioctl(cpu, 0x4090AE82, bytes(regs))
fcntl.ioctl(cpu, 0xAE80, 0)
reason = struct.unpack_from("I", run, 8)[0]
print("halted" if reason == 5 else f"exit reason {reason}")'`;

/** What the other tests rest on: that this host is what it is said to be. */
const FACTS: readonly { readonly name: string; readonly command: string; readonly says: RegExp }[] = [
  {
    name: "one cgroup hierarchy, version 2",
    command: "grep cgroup /proc/self/mounts",
    says: /^cgroup2 \/sys\/fs\/cgroup cgroup2 [^\n]*\n$/,
  },
  { name: "AppArmor is on", command: "cat /sys/module/apparmor/parameters/enabled", says: /^Y\n$/ },
  { name: "AppArmor has profiles", command: "wc -l </sys/kernel/security/apparmor/profiles", says: /^[1-9]/ },
  { name: "KVM runs a guest's code", command: KVM_RUNS, says: /^halted\n$/ },
  { name: "no network but loopback", command: "ls /sys/class/net", says: /^lo\n$/ },
  { name: "the clock is this machine's", command: "date +%s", says: /^\d+\n$/ },
];
const CLOCK_TOLERANCE_S = 30;
/** Three starts of the engine, each with a first look at every runtime. */
const DELEGATION_TIMEOUT_MS = 300_000;
/** Of `apparmor.py`. */
const APPARMOR_ATTEMPTS = 7;
const GONE_WITHIN_MS = 10_000;

/** @throws AssertionError when the host inside is not what it should be */
export async function testFacts(host: TestHost, say: (line: string) => void): Promise<void> {
  for (const { name, command, says } of FACTS) {
    const { stdout, stderr } = await host.inside.exec(command, { timeoutMs: 60_000 });
    assert.match(stdout.toString(), says, `${name}: ${stderr.toString()}`);
    say(`ok  ${name}`);
  }
  const inside = Number((await host.inside.exec("date +%s")).stdout.toString());
  assert.ok(Math.abs(inside - Date.now() / 1000) < CLOCK_TOLERANCE_S, `the clock inside is ${inside}`);
}

/** What each line of `delegation.sh` has to say. */
const DELEGATION: readonly { readonly name: string; readonly says: RegExp }[] = [
  { name: "without a memory controller nothing is started", says: /^few: bulkhead: (?!.*started$)[^]*memory\.max/m },
  { name: "a busy root group is refused with what to do", says: /^busy: bulkhead: [^]*?move them into a group/m },
  { name: "below a root group made free sandboxes start", says: /^cleared: started$/m },
];

/** Control groups that a container around Bulkhead would have: refused in words, or working. */
export async function testDelegation(host: TestHost, say: (line: string) => void): Promise<void> {
  const script = await readFile(join(import.meta.dirname, "guest/delegation.sh"), "utf8");
  const { stdout, stderr } = await host.inside.exec(["/bin/sh", "-c", script], { timeoutMs: DELEGATION_TIMEOUT_MS });
  for (const { name, says } of DELEGATION) {
    assert.match(stdout.toString(), says, `${name}: ${stdout.toString()}${stderr.toString()}`);
    say(`ok  ${name}`);
  }
}

/** Starts a container, which loads the profile, and says under which one it runs. */
const LABEL = `cd ${SOURCE_INSIDE} && node packages/cli/src/main.ts run --isolation container -- cat /proc/self/attr/current`;

/** A container's programs are under our profile, and that alone keeps the host's root from what it is to keep from. */
export async function testAppArmor(host: TestHost, say: (line: string) => void): Promise<void> {
  const started = await host.inside.exec(["/bin/sh", "-c", LABEL], { timeoutMs: DELEGATION_TIMEOUT_MS });
  const profile = /^(bulkhead-[0-9a-f]{12}) \(enforce\)$/.exec(started.stdout.toString().trim())?.[1];
  assert.ok(profile !== undefined, `a container runs as ${started.stdout.toString()}${started.stderr.toString()}`);
  const script = `${SOURCE_INSIDE}/tests/host/guest/apparmor.py`;
  const { stdout, stderr } = await host.inside.exec(["python3", script, profile], { timeoutMs: 60_000 });
  const lines = stdout.toString().trim().split("\n");
  assert.equal(lines.length, APPARMOR_ATTEMPTS, stderr.toString());
  for (const line of lines) assert.match(line, /: had without, E(?:ACCES|PERM) with$/);
  say(`ok  AppArmor's profile for containers denies ${lines.map((line) => line.split(":")[0]).join(", ")}`);
}

/** A plan of a microVM, for which a guest is tried with KVM. */
const EXPLAIN = `cd ${SOURCE_INSIDE} && node packages/cli/src/main.ts explain --isolation microvm --json`;

/** KVM is used where a guest has run with it: without this the suite could pass there by emulation. */
export async function testKvm(host: TestHost, say: (line: string) => void): Promise<void> {
  const { stdout, stderr } = await host.inside.exec(["/bin/sh", "-c", EXPLAIN], { timeoutMs: DELEGATION_TIMEOUT_MS });
  assert.match(stdout.toString(), /"accelerator": ?"kvm"/, `${stdout.toString().slice(0, 2000)}${stderr.toString()}`);
  say("ok  microVMs are run by KVM, with which a guest was tried first");
}

/** Test hosts of other runs are told apart by their runner, which is their parent. */
async function childrenOf(pid: number): Promise<readonly number[]> {
  const found: number[] = [];
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const text = await readFile(`/proc/${name}/stat`, "latin1").catch(() => "");
    if (Number(text.slice(text.lastIndexOf(")") + 1).split(" ")[2]) === pid) found.push(Number(name));
  }
  return found;
}

async function command(pid: number): Promise<string> {
  return (await readFile(`/proc/${pid}/cmdline`, "latin1").catch(() => "")).replaceAll("\0", " ");
}

/** A runner that ends in whatever way takes its machine along, and leaves no file being made. */
export async function testEnd(signal: "SIGKILL" | "SIGINT", say: (line: string) => void): Promise<void> {
  const runner = spawn(
    process.execPath,
    [join(import.meta.dirname, "run.ts"), "--", "sh", "-c", "echo up; exec sleep 1000"],
    {
      stdio: ["ignore", "pipe", "ignore"],
      env: { ...process.env },
    },
  );
  const ended = once(runner, "exit");
  try {
    await once(runner.stdout, "data");
    const machines = await childrenOf(runner.pid ?? 0);
    const names = await Promise.all(machines.map(command));
    assert.ok(
      names.some((name) => name.includes("qemu-system")),
      `no machine among: ${names.join(", ")}`,
    );
    runner.kill(signal);
    await ended;
    const deadline = performance.now() + GONE_WITHIN_MS;
    for (const pid of machines) {
      while ((await command(pid)) !== "") {
        assert.ok(performance.now() < deadline, `process ${pid} is still there: ${await command(pid)}`);
        await sleep(20);
      }
    }
  } finally {
    runner.kill("SIGKILL");
  }
  const left = (await readdir(join(config.state, "testhost"))).filter((name) => name.startsWith("."));
  assert.deepEqual(left, []);
  say(`ok  a runner ended by ${signal} takes its machine along`);
}
