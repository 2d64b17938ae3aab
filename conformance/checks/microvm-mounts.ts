import assert from "node:assert/strict";
import { chown, lstat, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { theme } from "../check.ts";
import { filesBelow, hostCommand, statusField, weightOf } from "../host.ts";
import type { Target } from "../target.ts";
import { monitorOf } from "./microvm.ts";
import { directory, inside, shared, USER } from "./mounts.ts";

/** What a monitor that was taken over may ask of the host's kernel at most. */
const MOST_CALLS = 67;
/** A monitor's limit on open files. */
const MOST_DESCRIPTORS = 1_024;

const ownKernelOnly = (target: Target): string | null =>
  target.traits.level === "microvm" ? null : "nobody stands between the sandbox and the mount at this level";

const isDevice = (mode: number): boolean => [0o020000, 0o060000].includes(mode & 0o170000);

/** As root of a kernel of its own; every failure is fine, and so is what leaves nothing bad outside. */
const HOSTILE = `
import os,stat
def attempt(act):
    try: act()
    except OSError: pass
open('plain','w').close(); os.mkdir('dir')
for mode in (0o4755,0o2755,0o6777):
    attempt(lambda: os.close(os.open('opened%o'%mode,os.O_CREAT|os.O_WRONLY,mode)))
    attempt(lambda: os.chmod('plain',mode)); attempt(lambda: os.chmod('dir',mode))
    attempt(lambda: os.mkdir('dir%o'%mode,mode)); attempt(lambda: os.chmod('dir%o'%mode,mode))
    attempt(lambda: os.mknod('node%o'%mode,stat.S_IFREG|mode))
for kind,name in ((stat.S_IFCHR,'char'),(stat.S_IFBLK,'block'),(stat.S_IFCHR|0o4777,'char2')):
    attempt(lambda: os.mknod(name,kind|0o666,os.makedev(1,5)))
attempt(lambda: os.mkfifo('fifo'))
for owner in ((0,0),(0,-1),(-1,0),(1234,1234)):
    attempt(lambda: os.chown('plain',*owner)); attempt(lambda: os.lchown('dir',*owner))
for name in ('user.x','trusted.x','security.capability'):
    attempt(lambda: os.setxattr('plain',name,b'\\1\\0\\0\\2'+bytes(16)))
os.setgid(33); os.setuid(33); attempt(lambda: open('as-another','w').close())`;

const DESCRIPTORS = `
import os,resource
resource.setrlimit(resource.RLIMIT_NOFILE,(4096,4096))
files=[open(f'{i}','w+') for i in range(1100)]
for i,f in enumerate(files): f.write(str(i)); f.flush()
ok=True
for i,f in enumerate(files): f.seek(0); ok=ok and f.read()==str(i)
print(ok)`;

/**
 * Under the monitor's own filter, as root and without its jail: calls that would do harm, and two that must work. Prints what
 * was not refused. Without the filter nearly all would be named, for bad arguments are no refusal.
 */
const TAKEN_OVER = `
import base64,ctypes,os,sys
program=base64.b64decode(sys.argv[1]); os.chdir(sys.argv[2])
libc=ctypes.CDLL(None,use_errno=True)
class Filter(ctypes.Structure): _fields_=[('length',ctypes.c_ushort),('code',ctypes.c_void_p)]
code=ctypes.create_string_buffer(program,len(program))
open('plain','w').close(); directory=os.open('.',os.O_RDONLY)
def refused(number,*arguments):
    ctypes.set_errno(0)
    return libc.syscall(number,*arguments)==-1 and ctypes.get_errno() in (1,38)
suid,create=0o4755,os.O_CREAT|os.O_WRONLY
calls={'chmod':(90,b'plain',suid),'chmod g+s':(90,b'plain',0o2755),'fchmod':(91,directory,suid),'fchmodat':(268,directory,b'plain',suid),
  'fchmodat2':(452,directory,b'plain',suid,0),'openat':(257,directory,b'made',create,suid),'open':(2,b'made',create,suid),
  'creat':(85,b'made',suid),'openat2':(437,directory,b'made',0,0),'mknod':(133,b'node',0o20666,259),'mknodat':(259,directory,b'node',0o20666,259),
  'mount':(165,0,0,0,0,0),'move_mount':(429,-1,0,-1,0,0),'open_tree':(428,-1,0,0),'fsopen':(430,0,0),'umount2':(166,0,0),'pivot_root':(155,0,0),
  'chroot':(161,0),'ptrace':(101,-1,-1,0,0),'process_vm_readv':(310,-1,0,0,0,0,0),'clone3':(435,0,0),'clone':(56,0x10000000,0,0,0,0),'fork':(57,),
  'unshare':(272,0x10000000),'setns':(308,-1,0),'setuid':(105,0),'setxattr':(188,0,0,0,0,0),'lsetxattr':(189,0,0,0,0,0),'chown':(92,0,0,0),
  'lchown':(94,0,0,0),'open_by_handle_at':(304,-1,0,0),'name_to_handle_at':(303,-1,0,0,0,0),'socket':(41,1,1,0),'bpf':(321,-1,0,0),
  'io_uring_setup':(425,0,0),'execveat':(322,-1,0,0,0,0),'kill':(62,os.getpid(),0),'keyctl':(250,-1,0,0,0,0),'userfaultfd':(323,-1)}
assert libc.prctl(38,1,0,0,0)==0 and libc.prctl(22,2,ctypes.byref(Filter(len(program)//8,ctypes.addressof(code))),0,0)==0
works=[] if libc.syscall(90,b'plain',0o751)==0 else ['chmod is refused']
if libc.syscall(257,directory,b'other',create,0o600)<0: works.append('openat is refused')
print(','.join(works+[name for name,call in calls.items() if not refused(*call)]))`;

export const microvmMountChecks = theme("mounts of guests", "host", (check) => {
  check(
    "what is made on a mount is its owner's and has no set-user-id bit, whoever made it; no device can be made",
    async (context) => {
      const { outside, box } = await shared(context);
      await inside(box, ["python3", "-c", HOSTILE], "root");
      for (const entry of await readdir(outside, { recursive: true })) {
        const { mode, uid, gid } = await lstat(join(outside, entry));
        assert.deepEqual([uid, gid, mode & 0o6000], [USER, USER, 0], entry);
        assert.ok(!isDevice(mode), `${entry} is a device`);
      }
      assert.ok((await readdir(outside)).length > 2, "nothing could be made at all");
    },
    { notFor: ownKernelOnly },
  );

  check(
    "owners that differ from mount to mount are each acted as, also where root cannot be mapped",
    async (context) => {
      const owners = [0, USER, 70_000] as const;
      const places = await Promise.all(owners.map(() => directory(context)));
      for (const [i, place] of places.entries()) {
        await writeFile(join(place, "private"), `${i}`, { mode: 0o600 });
        for (const path of [place, join(place, "private")]) await chown(path, owners[i] ?? 0, owners[i] ?? 0);
      }
      const own = await context.fresh({
        mounts: places.map((source, i) => ({ source, target: `/mnt/${i}`, readOnly: false })),
      });
      const script = "cat /mnt/*/private; for i in 0 1 2; do echo made > /mnt/$i/made; done";
      assert.equal((await own.run(["sh", "-c", script], { user: "root" })).stdout.toString(), "012");
      for (const [i, place] of places.entries()) assert.equal((await stat(join(place, "made"))).uid, owners[i]);
    },
    { notFor: ownKernelOnly },
  );

  check(
    "from outside: the monitor has the mounts and nothing more, and as few calls as they need",
    async (context) => {
      const [read, write] = [await directory(context), await directory(context)];
      await chown(read, 0, 0);
      const mounts = [
        { source: read, target: "/mnt/read", readOnly: true },
        { source: write, target: "/mnt/write", readOnly: false },
      ];
      const own = await context.fresh({ mounts });
      const pid = await monitorOf(own.id);
      for (const set of ["CapPrm", "CapEff", "CapBnd"]) assert.match(await statusField(pid, set), /^0+$/, set);
      const found = (await readFile(`/proc/${pid}/mountinfo`, "latin1")).split("\n").map((line) => line.split(" "));
      const options = (place: string): string => found.find((fields) => fields[4] === place)?.[5] ?? "";
      assert.match(options("/vm/shared"), /^ro,nosuid,nodev,noexec/);
      assert.match(options("/vm/shared/0"), /^ro,nosuid,nodev,noexec/);
      assert.match(options("/vm/shared/1"), /^rw,nosuid,nodev,noexec/);
      const calls = async (from: typeof mounts): Promise<number> =>
        (await context.open.plan({ mounts: from }))?.boundary.monitor?.reachableCalls ?? 0;
      const counts = [await calls([]), await calls(mounts.slice(0, 1)), await calls(mounts)] as const;
      assert.ok(counts[0] < counts[1] && counts[1] < counts[2] && counts[2] <= MOST_CALLS, counts.join());
    },
    { notFor: ownKernelOnly },
  );

  check(
    "a guest that opens more files than its monitor may have open goes on, within the monitor's limits",
    async (context) => {
      const { box } = await shared(context);
      const pid = await monitorOf(box.id);
      assert.equal(await inside(box, ["python3", "-c", DESCRIPTORS], "root"), "True\n");
      const { descriptors } = await weightOf(pid);
      assert.ok(descriptors < MOST_DESCRIPTORS, `${descriptors} descriptors`);
      assert.equal(await inside(box, ["sh", "-c", "echo works > after; cat after"]), "works\n");
    },
    { notFor: ownKernelOnly, timeoutMs: 300_000 },
  );

  check(
    "a monitor that was taken over makes no device, no set-user-id file, no namespace and no mount",
    async (context) => {
      assert.ok(context.open.outside !== null);
      const { box } = await shared(context);
      const files = await filesBelow(context.open.outside.runDirectory);
      const path = files.find((file) => file.endsWith(join(box.id, "config.json")));
      assert.ok(path !== undefined, "the jail's configuration is not there");
      const { annotations } = JSON.parse(await readFile(path, "utf8")) as { annotations: Record<string, string> };
      const program = annotations["run.oci.seccomp_bpf_data"] ?? "";
      const place = await directory(context);
      assert.equal((await hostCommand(["python3", "-c", TAKEN_OVER, program, place])).trim(), "");
    },
    { notFor: ownKernelOnly },
  );
});
