import assert from "node:assert/strict";
import { readdir, readFile, readlink, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fails, theme, within } from "../check.ts";
import { hostCommand, namespaceOf, processesInCgroup, squeezeMemory, statusField, weightOf } from "../host.ts";
import type { Target } from "../target.ts";

const MIB = 1024 * 1024;
const CLONES = 20;
/** What a monitor that was taken over may ask of the host's kernel at most. */
const MOST_CALLS = 67;
/** Buffers of a monitor and of this process, which come and go. */
const GROWTH_BYTES = 64 * MIB;
/** Less than the check's program takes. */
const SQUEEZED_BYTES = 16 * MIB;
const FLOOD_MS = 3_000;
const FIRST_RANGE = 0x1000_0000;

const others = (target: Target): string | null =>
  target.traits.level === "microvm" ? null : "there is no virtual machine at this level";

/** The one process of a sandbox that is a virtual machine. KVM's timer is a thread of the kernel's beside it, without memory. */
export async function monitorOf(id: string): Promise<number> {
  const found = (await processesInCgroup(id)).map(async ({ pid }) => ({
    pid,
    size: await statusField(pid, "VmSize").catch(() => ""),
  }));
  const [pid, ...rest] = (await Promise.all(found)).filter(({ size }) => size !== "").map((one) => one.pid);
  assert.ok(pid !== undefined && rest.length === 0, "a virtual machine is one process");
  return pid;
}

/** Prints a digest of all pages that are not zero: pages that were never touched read as zeros. */
const DIGEST = `
import os,sys,hashlib
f=os.open(sys.argv[1],os.O_RDONLY); h=hashlib.sha256(); at=0; zero=bytes(4096)
while True:
    try: start=os.lseek(f,at,os.SEEK_DATA)
    except OSError: break
    at=os.lseek(f,start,os.SEEK_HOLE)
    for o in range(start,at,1048576):
        block=os.pread(f,min(1048576,at-o),o)
        if not any(block[:64]) and not block.strip(b'\\0'): continue
        for p in range(0,len(block),4096):
            page=block[p:p+4096]
            if page!=zero: h.update(b'%d'%(o+p)); h.update(page)
print(h.hexdigest())`;

/** Tries everything that changes a file's contents; prints what went through. */
const ATTACK = `
import os,sys,ctypes
f=os.open(sys.argv[1],os.O_RDWR); libc=ctypes.CDLL(None,use_errno=True); done=[]
try: os.pwrite(f,b'x',0); done.append('write')
except OSError: pass
try: os.ftruncate(f,4096); done.append('truncate')
except OSError: pass
if libc.fallocate(f,3,ctypes.c_long(0),ctypes.c_long(4096))==0: done.append('punch')
import mmap
try: mmap.mmap(f,4096,mmap.MAP_SHARED,mmap.PROT_READ|mmap.PROT_WRITE); done.append('map')
except OSError: pass
print(','.join(done))`;

async function templatesOf(keeper: number): Promise<readonly string[]> {
  const paths = (await readdir(`/proc/${keeper}/fd`)).map((fd) => `/proc/${keeper}/fd/${fd}`);
  const links = await Promise.all(paths.map((path) => readlink(path).catch(() => "")));
  return paths.filter((_, i) => links[i]?.startsWith("/memfd:bulkhead-template"));
}

/** How many templates that have an image's root were woken from since then, in milliseconds since 1970. */
async function rootedSince(state: string, since: number): Promise<number> {
  const names = await readdir(join(state, "templates")).catch((): string[] => []);
  const dirs = names.map((name) => join(state, "templates", name));
  const rooted = dirs.map(async (dir) => {
    const text = await readFile(join(dir, "key.json"), "utf8").catch(() => '{ "root": null }');
    const { root } = JSON.parse(text) as { readonly root: unknown };
    return root !== null && (await stat(dir)).mtimeMs >= since;
  });
  return (await Promise.all(rooted)).filter(Boolean).length;
}

export const microvmChecks = theme("microvm", "host", (check) => {
  check(
    `${CLONES} guests differ in random numbers, ids and layout, and know the time`,
    async ({ fresh, open, target }) => {
      const script = `head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid /etc/machine-id
      hostname; python3 -c 'import os; print(os.urandom(16).hex()); print(id(object()), open("/proc/self/maps").readline()[:12])'; date +%s.%N`;
      // From the third on they wake with their root file system.
      for (let i = 0; i < 2; i += 1) await (await fresh({ memoryBytes: 128 * MIB })).kill();
      const woken = Date.now();
      const rows = await Promise.all(
        Array.from({ length: CLONES }, async (_, i) => {
          const own = await fresh({ hostname: `guest-${i}`, memoryBytes: 128 * MIB });
          const before = Date.now() / 1000;
          const lines = (await own.run(["sh", "-c", script])).stdout.toString().trim().split("\n");
          const time = Number(lines.pop());
          assert.ok(
            time > before - 1 && time < Date.now() / 1000 + 1,
            `the guest's clock is off by ${time - before} s`,
          );
          return lines;
        }),
      );
      assert.ok(open.outside !== null);
      const rooted = target.name.endsWith("cold") ? 0 : 1;
      assert.equal(
        await rootedSince(open.outside.stateDirectory, woken),
        rooted,
        "templates with a root that were used",
      );
      assert.equal(rows[0]?.length, 7);
      rows[0]?.forEach((_, column) => {
        assert.equal(
          new Set(rows.map((row) => row[column])).size,
          CLONES,
          `line ${column + 1} is the same in two guests: ${rows.map((row) => row[column]).join(" ")}`,
        );
      });
    },
    { notFor: others, timeoutMs: 300_000 },
  );

  check(
    "what most programs begin with is in a guest's memory before it runs any",
    async ({ fresh, target }) => {
      // The third wakes with its root file system.
      for (let i = 0; i < 2; i += 1) await (await fresh()).kill();
      const own = await fresh();
      // The kernel tells others than a file's owner that all of it is.
      const command = ["fincore", "--bytes", "--noheadings", "--output", "RES,SIZE", "/usr/bin/true"];
      const [held = 0, size = 0] = (await own.run(command, { user: "root" })).stdout
        .toString()
        .trim()
        .split(/\s+/)
        .map(Number);
      assert.ok(size > 0);
      assert.equal(held >= size, !target.name.endsWith("cold"), `${held} of ${size} bytes`);
    },
    { notFor: others, timeoutMs: 120_000 },
  );

  check(
    "what guests are cloned from cannot be changed, by none of them",
    async ({ fresh, open, target }) => {
      assert.ok(open.outside !== null);
      const own = await fresh();
      const paths = await templatesOf(open.outside.keeperPid());
      // Booted guests have nothing in common.
      if (target.name.endsWith("cold")) return assert.deepEqual(paths, []);
      assert.ok(paths.length > 0, "the keeper holds no template");
      const digests = (): Promise<readonly string[]> =>
        Promise.all(paths.map((path) => hostCommand(["python3", "-c", DIGEST, path])));
      const before = await digests();
      for (const path of paths) assert.equal((await hostCommand(["python3", "-c", ATTACK, path])).trim(), "");
      const devices = await own.run(["sh", "-c", "cat /sys/bus/virtio/devices/*/device"]);
      // Block devices and a serial one; a balloon's would be 0x0005.
      assert.deepEqual(
        devices.stdout
          .toString()
          .trim()
          .split("\n")
          .map(Number)
          .sort((a, b) => a - b),
        [2, 2, 3],
      );
      await own.run(["python3", "-c", "b=bytearray(b'x')*300000000; print(len(b))"]);
      await own.run(["sh", "-c", "echo 3 > /proc/sys/vm/drop_caches; echo 1 > /proc/sys/vm/compact_memory"], {
        user: "root",
      });
      await own.kill();
      assert.deepEqual(await digests(), before);
    },
    { notFor: others, timeoutMs: 180_000 },
  );

  check(
    "from outside: the monitor is nobody, filtered, without capabilities, in namespaces of its own",
    async ({ box, open }) => {
      const pid = await monitorOf(box.id);
      for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
        assert.match(await statusField(pid, set), /^0+$/, set);
      for (const id of (await statusField(pid, "Uid")).split("\t").map(Number))
        assert.ok(id >= FIRST_RANGE, `uid ${id}`);
      assert.equal(await statusField(pid, "NoNewPrivs"), "1");
      assert.equal(await statusField(pid, "Seccomp"), "2");
      for (const name of ["pid", "mnt", "net", "ipc", "uts", "cgroup", "user"]) {
        assert.notEqual(await namespaceOf(pid, name), await namespaceOf(process.pid, name), name);
      }
      const mounts = (await readFile(`/proc/${pid}/mountinfo`, "latin1")).split("\n").filter(Boolean);
      for (const mount of mounts) {
        const [, , , , place = "", options = ""] = mount.split(" ");
        assert.ok(options.split(",").includes("ro") || place.startsWith("/dev"), `${place} is writable`);
      }
      const monitor = (await open.plan())?.boundary.monitor;
      assert.ok(monitor !== undefined && monitor.reachableCalls <= MOST_CALLS, `${monitor?.reachableCalls} calls`);
      assert.deepEqual(monitor.capabilities, []);
    },
    { notFor: others },
  );

  check(
    "a flood of the console or of output that nobody reads takes no memory of the host's",
    async ({ fresh, open, defer }) => {
      assert.ok(open.outside !== null);
      const own = await fresh();
      const watched = [await monitorOf(own.id), open.outside.keeperPid(), process.pid];
      const weigh = async (): Promise<readonly number[]> =>
        await Promise.all(watched.map(async (pid) => (await weightOf(pid)).rssBytes));
      const before = await weigh();
      const console = await own.start(["sh", "-c", "cat /dev/zero > /dev/hvc0"], { user: "root" });
      const unread = await own.start(["cat", "/dev/zero"]);
      defer(() => own.kill());
      await sleep(FLOOD_MS);
      await within("a ping in the flood", 20_000, own.ping());
      const after = await weigh();
      after.forEach((bytes, i) =>
        assert.ok(bytes - (before[i] ?? 0) < GROWTH_BYTES, `process ${i} grew by ${bytes - (before[i] ?? 0)} bytes`),
      );
      await console.signal("SIGKILL");
      await unread.signal("SIGKILL");
    },
    { notFor: others, timeoutMs: 120_000 },
  );

  check(
    "a panic of the guest's kernel is told as one, with the console's last lines, also after a flood",
    async ({ fresh }) => {
      const own = await fresh({ memoryBytes: 128 * MIB });
      await own.run(["sh", "-c", "timeout 1 cat /dev/zero > /dev/hvc0"], { user: "root" });
      const fill = 'b=[]\nwhile True: b.append(bytearray(b"x")*10000000)';
      const script = `echo 2 > /proc/sys/vm/panic_on_oom; exec python3 -c "$0"`;
      const error = await fails("SANDBOX_GONE", () =>
        own.run(["sh", "-c", script, fill], { user: "root", timeoutMs: 60_000 }),
      );
      assert.match(error.why, /kernel panicked: /);
      const { reason } = error.details as { reason?: { cause: string; console: readonly string[] } };
      assert.equal(reason?.cause, "guest-panic");
      assert.match(reason.console.join("\n"), /Kernel panic - not syncing/);
    },
    { notFor: others, timeoutMs: 120_000 },
  );

  check(
    "a monitor that is out of memory is told as that",
    async ({ fresh }) => {
      const own = await fresh({ memoryBytes: 256 * MIB });
      // The jail's limit is more than a guest can make its monitor use: it is lowered from outside.
      await squeezeMemory(own.id, SQUEEZED_BYTES);
      const error = await fails("SANDBOX_GONE", () =>
        own.run(["python3", "-c", "b=bytearray(b'x')*200000000; print(len(b))"]),
      );
      assert.equal((error.details as { reason?: { cause: string } }).reason?.cause, "monitor-out-of-memory");
    },
    { notFor: others, timeoutMs: 120_000 },
  );

  check(
    "a guest that ends itself is told as that",
    async ({ fresh }) => {
      const own = await fresh();
      const restart = "import ctypes; ctypes.CDLL(None).reboot(0x01234567)";
      const error = await fails("SANDBOX_GONE", () =>
        own.run(["python3", "-c", restart], { user: "root", timeoutMs: 60_000 }),
      );
      assert.equal((error.details as { reason?: { cause: string } }).reason?.cause, "guest-off");
    },
    { notFor: others },
  );
});
