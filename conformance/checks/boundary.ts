import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { AddressInfo } from "node:net";
import type { Box } from "../box.ts";
import { theme } from "../check.ts";
import { hostCommand } from "../host.ts";
import type { Target } from "../target.ts";

/** Runs Python inside and reads the JSON it prints. */
export async function probe<T>(box: Box, code: string, user = "root"): Promise<T> {
  const result = await box.run(["python3", "-c", code], { user });
  assert.equal(result.code, 0, `the probe itself failed: ${result.stderr.toString().slice(-500)}`);
  return JSON.parse(result.stdout.toString()) as T;
}

/** Root of a virtual machine's kernel is root of nothing else. */
const virtualMachine = (target: Target): string | null =>
  target.traits.level === "microvm"
    ? "root may do so in its own kernel, which is what the boundary is drawn around"
    : null;

const ownKernel = (target: Target): string | null =>
  target.traits.ownKernel ? "the sandbox's own kernel answers; what it says does not concern the host" : null;

/** Each call with arguments that the bare kernel answers with another error than EPERM and ENOSYS. */
const DANGEROUS_CALLS = {
  bpf: [321, 9999, 0, 0],
  perf_event_open: [298, 0, 0, -1, -1, 0],
  keyctl: [250, 0, -3, 0],
  add_key: [248, 0, 0, 0, 0, -3],
  kexec_load: [246, 0, 0, 0, 0],
  init_module: [175, 0, 0, 0],
  delete_module: [176, 0, 0],
  open_by_handle_at: [304, -1, 0, 0],
  swapon: [167, 0, 0],
  iopl: [172, 9],
  acct: [163, 1],
} as const;

const CALLS_CODE = `
import ctypes,json,errno
libc=ctypes.CDLL(None,use_errno=True)
calls=json.loads('''${JSON.stringify(DANGEROUS_CALLS)}''')
out={}
for name,args in calls.items():
    ctypes.set_errno(0)
    r=libc.syscall(*[ctypes.c_long(a) for a in args])
    out[name]='returned %d' % r if r!=-1 else errno.errorcode[ctypes.get_errno()]
print(json.dumps(out))`;

/** getpid by the 32-bit entry: prints the answer, or dies. */
const INT80_CODE = `
import ctypes,mmap
m=mmap.mmap(-1,4096,prot=7)
m.write(bytes([0x53,0xb8,20,0,0,0,0xcd,0x80,0x5b,0xc3]))
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))())`;

/** Major and minor number of the first disk this host has, memory disks and loops apart. */
async function hostDisk(): Promise<string> {
  const [major, minor] =
    (await hostCommand(["lsblk", "--nodeps", "--noheadings", "--exclude", "1,7,253", "--output", "MAJ:MIN"]))
      .trim()
      .split("\n")[0]
      ?.trim()
      .split(":") ?? [];
  assert.ok(major !== undefined && minor !== undefined, "this host has no disk to look for");
  return `${major} ${minor}`;
}

export const boundaryChecks = theme("boundary", "isolation", (check) => {
  check("processes of the host are neither visible nor reachable by signals", async ({ box, defer }) => {
    const length = `${700_000 + Math.floor(Math.random() * 99_999)}`;
    const canary = spawn("sleep", [length], { stdio: "ignore" });
    await once(canary, "spawn");
    defer(() => canary.kill("SIGKILL"));
    const code = `
import os,json,glob
seen=[p for p in glob.glob('/proc/[0-9]*/cmdline') if b'${length}' in open(p,'rb').read() and p!='/proc/%d/cmdline'%os.getpid()]
try: os.kill(${canary.pid},0); reach='reached'
except OSError as e: reach=e.strerror
cmd=''
try: cmd=open('/proc/${canary.pid}/cmdline').read()
except OSError: pass
print(json.dumps([len(seen), '${length}' in cmd and reach=='reached']))`;
    assert.deepEqual(await probe(box, code), [0, false]);
  });

  check("a file of the host cannot be read, not by root, not through /proc", async ({ box, defer }) => {
    const directory = await mkdtemp(join(tmpdir(), "canary-"));
    defer(() => rm(directory, { recursive: true }));
    const secret = randomBytes(16).toString("hex");
    await writeFile(join(directory, "canary"), secret);
    const code = `
import glob,json
hits=[]
for base in ['']+glob.glob('/proc/[0-9]*/root')+glob.glob('/proc/[0-9]*/cwd'):
    try:
        if '${secret}' in open(base+'${directory}/canary').read(): hits.append(base)
    except OSError: pass
print(json.dumps(len(hits)))`;
    assert.equal(await probe(box, code), 0);
  });

  check("no connection to the host's loopback or abstract sockets", async ({ box, defer }) => {
    const tcp = createServer((socket) => socket.destroy()).listen(0, "127.0.0.1");
    const name = `canary-${randomBytes(6).toString("hex")}`;
    const unix = createServer((socket) => socket.destroy()).listen(`\0${name}`);
    await Promise.all([once(tcp, "listening"), once(unix, "listening")]);
    defer(() => (tcp.close(), unix.close()));
    const code = `
import socket,json
def tries(f):
    try: f(); return 'connected'
    except OSError: return 'refused'
print(json.dumps([tries(lambda: socket.create_connection(('127.0.0.1',${(tcp.address() as AddressInfo).port}),2)),
 tries(lambda: socket.socket(socket.AF_UNIX).connect(b'\\0${name}'.decode()))]))`;
    assert.deepEqual(await probe(box, code), ["refused", "refused"]);
  });

  check("shared memory of the host is not visible", async ({ box, defer }) => {
    const id = /(\d+)\s*$/.exec((await hostCommand(["ipcmk", "-M", "4096"])).trim())?.[1];
    assert.ok(id !== undefined);
    defer(() => hostCommand(["ipcrm", "-m", id]));
    const code = `
import json,ctypes
libc=ctypes.CDLL(None)
libc.shmat.restype=ctypes.c_long
print(json.dumps(libc.shmat(${id},None,0)!=-1))`;
    assert.equal(await probe(box, code), false);
  });

  check(
    "dangerous system calls are refused to root",
    async ({ box }) => {
      const got = await probe<Record<string, string>>(box, CALLS_CODE);
      const letThrough = Object.entries(got).filter(
        ([, answer]) => answer !== "EPERM" && answer !== "ENOSYS" && answer !== "EACCES",
      );
      assert.deepEqual(letThrough, []);
    },
    { notFor: ownKernel },
  );

  check("system calls are filtered, or answered by another kernel", async ({ box, target }) => {
    const status = (await box.run(["grep", "^Seccomp:", "/proc/self/status"])).stdout.toString().trim();
    const release = (await box.run(["uname", "-r"])).stdout.toString().trim();
    const host = (await hostCommand(["uname", "-r"])).trim();
    if (target.traits.ownKernel) assert.notEqual(release, host);
    else assert.match(status, /\s2$/);
  });

  check("the 32-bit entry of the kernel is closed", async ({ box }) => {
    const result = await box.run(["python3", "-c", INT80_CODE], { user: "root" });
    const answer = Number(result.stdout.toString().trim() || "-1");
    assert.ok(result.signal !== null || result.code !== 0 || answer < 0, `getpid by int 0x80 answered ${answer}`);
  });

  check(
    "root inside is nobody outside",
    async ({ box }) => {
      const map = (await box.run(["cat", "/proc/self/uid_map"], { user: "root" })).stdout
        .toString()
        .trim()
        .split(/\s+/)
        .map(Number);
      assert.equal(map[0], 0);
      assert.ok((map[1] ?? 0) >= 65_536, `uid 0 inside is uid ${map[1]} outside`);
      assert.ok((map[2] ?? Infinity) <= 65_536, `the range has ${map[2]} ids`);
    },
    { notFor: ownKernel },
  );

  check(
    "root cannot mount",
    async ({ box, scratch }) => {
      const result = await box.run(
        [
          "sh",
          "-c",
          `mkdir ${scratch}/m && mount -t tmpfs none ${scratch}/m && { umount ${scratch}/m; echo mounted; }`,
        ],
        { user: "root" },
      );
      assert.equal(result.stdout.toString(), "");
    },
    { notFor: virtualMachine },
  );

  check("root cannot read the host's disk or kernel log through a device node it makes", async ({ box, scratch }) => {
    const disk = await hostDisk();
    const script = `mknod disk b ${disk}; dd if=disk bs=8192 count=1 | wc -c; mknod log c 1 11; dd if=log bs=8192 count=1 | wc -c`;
    const result = await box.run(["sh", "-c", script], { user: "root", cwd: scratch });
    assert.equal(result.stdout.toString(), "0\n0\n");
  });

  check(
    "no new user namespace",
    async ({ box }) => {
      assert.notEqual((await box.run(["unshare", "-U", "true"])).code, 0);
      assert.notEqual((await box.run(["unshare", "-m", "true"], { user: "root" })).code, 0);
    },
    { notFor: ownKernel },
  );

  check(
    "kernel settings cannot be opened for writing by root",
    async ({ box }) => {
      const code = `
import os,json
out=[]
for p in ['/proc/sys/kernel/core_pattern','/proc/sys/kernel/randomize_va_space','/proc/sys/vm/overcommit_memory','/proc/sysrq-trigger','/sys/kernel/uevent_helper','/sys/power/state']:
    try: os.close(os.open(p,os.O_WRONLY)); out.append(p)
    except OSError: pass
print(json.dumps(out))`;
      assert.deepEqual(await probe(box, code), []);
    },
    { notFor: ownKernel },
  );

  check(
    "kernel memory, keys and firmware are masked",
    async ({ box }) => {
      const code = `
import os,json
out=[]
for p in ['/proc/kcore','/proc/keys','/proc/timer_list','/proc/kallsyms' if 0 else '/proc/latency_stats']:
    try:
        f=os.open(p,os.O_RDONLY); d=os.read(f,64)
        if d: out.append(p)
    except OSError: pass
for p in ['/sys/firmware','/proc/acpi','/sys/devices/virtual/powercap','/proc/scsi']:
    try:
        if os.listdir(p): out.append(p)
    except OSError: pass
print(json.dumps(out))`;
      assert.deepEqual(await probe(box, code), []);
    },
    { notFor: virtualMachine },
  );

  check("the host's environment and command line are not readable", async ({ box }) => {
    const own = (await readFile("/proc/self/cmdline", "latin1")).split("\0").filter((a) => a.length > 8);
    assert.ok(own.length > 0, "this process has no argument to look for");
    // In hexadecimal, or the probe would find its own command line.
    const code = `
import glob,json
text=b''
for p in glob.glob('/proc/[0-9]*/cmdline')+glob.glob('/proc/[0-9]*/environ'):
    try: text+=open(p,'rb').read()
    except OSError: pass
print(json.dumps([bytes.fromhex(a) in text for a in '${own.map((a) => Buffer.from(a, "latin1").toString("hex")).join(" ")}'.split()]))`;
    assert.deepEqual(
      await probe(box, code),
      own.map(() => false),
    );
  });
});
