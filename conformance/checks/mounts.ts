import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import {
  appendFile,
  chmod,
  chown,
  lstat,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { basename, join } from "node:path";
import { crc32 } from "node:zlib";
import type { Box } from "../box.ts";
import type { Context } from "../check.ts";
import { eventually, theme } from "../check.ts";
import { freshDirectory, processesInCgroup, statusField, weightOf } from "../host.ts";
import type { Target } from "../target.ts";

const MIB = 1024 * 1024;
const BIG_MIB = 100;
const FILES = 2_000;
const GIVEN = 200;
const WRITERS = 8;
const LINES = 100;
/** The image's `user`. */
const USER = 1000;
/** What a monitor that was taken over may ask of the host's kernel at most. */
const MOST_CALLS = 67;
/** A monitor's limit on open files. */
const MOST_DESCRIPTORS = 1_024;
const INSIDE = "/mnt/shared";

/** A directory of the host's, the sandbox user's own. */
async function directory({ defer }: Context, prefix = "conformance-mount-"): Promise<string> {
  const path = await freshDirectory(prefix);
  defer(() => rm(path, { recursive: true }));
  await chown(path, USER, USER);
  return path;
}

const ownKernelOnly = (target: Target): string | null =>
  target.traits.level === "microvm" ? null : "nobody stands between the sandbox and the mount at this level";

/** The one process of a sandbox that is a virtual machine. */
async function monitorOf(id: string): Promise<number> {
  const [pid, ...rest] = (await processesInCgroup(id)).map((found) => found.pid);
  assert.ok(pid !== undefined && rest.length === 0, "a virtual machine is one process");
  return pid;
}

const isDevice = (mode: number): boolean => [0o020000, 0o060000].includes(mode & 0o170000);

interface Shared {
  readonly outside: string;
  readonly box: Box;
}

async function shared(context: Context): Promise<Shared> {
  const outside = await directory(context);
  return { outside, box: await context.fresh({ mounts: [{ source: outside, target: INSIDE }] }) };
}

/** Runs a script in the mount and gives what it wrote; fails with its errors. */
async function inside(box: Box, argv: readonly string[], user = "user"): Promise<string> {
  const result = await box.run(argv, { cwd: INSIDE, user });
  assert.equal(result.code, 0, result.stderr.toString());
  return result.stdout.toString();
}

/** Writes a file of many unlike blocks, and gives the checksum of what it wrote and of what it reads. */
const BIG = `
import os,zlib
noise=os.urandom(${MIB}); wrote=read=0
with open('made','wb',0) as f:
    for i in range(${BIG_MIB}):
        block=noise[i:]+noise[:i]; wrote=zlib.crc32(block,wrote); f.write(block)
def crc(name):
    sum=0
    with open(name,'rb',0) as f:
        while block:=f.read(${MIB}): sum=zlib.crc32(block,sum)
    return sum
print(wrote,crc('made'),crc('given'))`;

/** Each writes lines of its own to a file of its own and to one that all share. */
const CONCURRENT = `
import os
pids=[]
for w in range(${WRITERS}):
    pid=os.fork()
    if pid==0:
        own=open(f'own-{w}','w'); every=os.open('every',os.O_WRONLY|os.O_CREAT|os.O_APPEND,0o644)
        for i in range(${LINES}):
            own.write(f'{w} {i}\\n'); own.flush(); os.write(every,b'%d %d\\n'%(w,i))
        os._exit(0)
    pids.append(pid)
print(sum(os.waitpid(p,0)[1] for p in pids))`;

const MANY = `
import os
for i in range(${FILES}):
    os.makedirs(f'made/{i%20}',exist_ok=True)
    open(f'made/{i%20}/{i}','w').write(str(i))
read=[open(os.path.join(d,f)).read() for d,_,fs in os.walk('given') for f in fs]
print(len(read),sum(map(int,read)))`;

/** What editors, package managers and databases do with files. Prints what did not go as it should. */
const LIFE = `
import os,mmap,fcntl,stat
bad=[]
def expect(what,ok):
    if not ok: bad.append(what)
def fails(what,act):
    try: act(); bad.append(what)
    except OSError: pass
open('a','w').write('a'); open('b','w').write('b')
os.rename('a','b'); expect('rename over a file',open('b').read()=='a' and not os.path.exists('a'))
os.makedirs('d/e'); open('d/e/f','w').write('f'); os.rename('d','moved')
expect('rename of a directory',open('moved/e/f').read()=='f')
fails('removal of a full directory',lambda: os.rmdir('moved'))
f=open('open','w+'); f.write('before'); f.flush(); os.unlink('open')
f.write(' after'); f.flush(); f.seek(0); expect('use after unlink',f.read()=='before after' and not os.path.exists('open'))
g=open('other','w+'); g.write('x'*10); g.flush(); os.ftruncate(g.fileno(),3); expect('truncate',os.stat('other').st_size==3)
os.fsync(g.fileno()); os.utime('other',(1e9,2e9)); expect('times',os.stat('other').st_mtime==2e9)
os.chmod('other',0o751); expect('mode',stat.S_IMODE(os.stat('other').st_mode)==0o751)
fails('O_EXCL',lambda: os.open('other',os.O_CREAT|os.O_EXCL))
os.link('other','hard'); expect('hard link',os.stat('hard').st_nlink==2 and os.path.samefile('hard','other'))
os.symlink('other','soft'); expect('link',os.readlink('soft')=='other' and os.stat('soft').st_size==3)
m=open('mapped','w+b'); m.truncate(8192); v=mmap.mmap(m.fileno(),8192); v[4096:4100]=b'page'; v.flush(); v.close(); m.close()
expect('shared mapping',open('mapped','rb').read()[4096:4100]==b'page')
s=open('sparse','wb'); s.seek(1<<20); s.write(b'end'); s.close(); expect('hole',os.stat('sparse').st_size==(1<<20)+3)
l=open('lock','w'); fcntl.lockf(l,fcntl.LOCK_EX|fcntl.LOCK_NB)
if os.fork()==0:
    try: fcntl.lockf(open('lock','w'),fcntl.LOCK_EX|fcntl.LOCK_NB); os._exit(1)
    except OSError: os._exit(0)
expect('lock',os.wait()[1]==0)
name='n'*255; open(name,'w').close(); expect('long name',name in os.listdir('.')); fails('longer name',lambda: open('n'*256,'w'))
odd=b'odd \\xff\\n'; open(odd,'w').close(); expect('odd name',odd in os.listdir(b'.'))
print(','.join(bad))`;

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
files=[open(f'{i}','w+') for i in range(1500)]
for i,f in enumerate(files): f.write(str(i)); f.flush()
ok=True
for i,f in enumerate(files): f.seek(0); ok=ok and f.read()==str(i)
print(ok)`;

export const mountChecks = theme("mounts", "host", (check) => {
  check("a link or .. in a mount leads to what is inside, never to the host's files", async (context) => {
    const { outside, box } = await shared(context);
    const kept = await directory(context, "conformance-kept-");
    const secret = randomBytes(16).toString("hex");
    await writeFile(join(kept, "secret"), secret, { mode: 0o644 });
    await symlink(join(kept, "secret"), join(outside, "absolute"));
    await symlink(`../${basename(kept)}/secret`, join(outside, "relative"));
    await symlink("/", join(outside, "top"));
    await symlink("/etc/passwd", join(outside, "passwd"));
    const ways = ["absolute", "relative", `top/${kept}/secret`, `../${basename(kept)}/secret`, `../../${kept}/secret`];
    for (const user of ["root", "user"]) {
      const result = await box.run(["cat", ...ways], { cwd: INSIDE, user });
      assert.notEqual(result.code, 0);
      assert.equal(result.stdout.toString(), "");
      const own = (await box.files.read("/etc/passwd")).toString();
      assert.equal(await inside(box, ["cat", "passwd"], user), own);
    }
  });

  check("what changes outside is seen inside at once", async (context) => {
    const { outside, box } = await shared(context);
    const file = join(outside, "file");
    await writeFile(file, "one");
    const reader = await box.start(["sh", "-c", "exec 3< file; cat <&3; echo; read line; cat <&3"], {
      cwd: INSIDE,
      stdin: true,
    });
    let said = "";
    reader.stdout.on("data", (chunk: Buffer) => (said += chunk.toString()));
    await eventually("what is in a file", () => said === "one\n", 30_000);
    await appendFile(file, " and more");
    assert.equal(await inside(box, ["sh", "-c", "cat file; stat -c %s file"]), "one and more12\n");
    reader.stdin.end("go on\n");
    await eventually("what was added to an open file", () => said === "one\n and more", 30_000);
    await writeFile(file, "two and more");
    assert.equal(await inside(box, ["cat", "file"]), "two and more", "new contents of the same length are not seen");
    await chmod(file, 0o640);
    await rename(file, join(outside, "renamed"));
    await mkdir(join(outside, "new"));
    assert.equal(await inside(box, ["sh", "-c", "ls; stat -c %a renamed"]), "new\nrenamed\n640\n");
    await rm(join(outside, "renamed"));
    assert.equal(await inside(box, ["ls"]), "new\n");
  });

  check(
    `${BIG_MIB} MiB go out and in through a mount unchanged`,
    async (context) => {
      const { outside, box } = await shared(context);
      const given = randomBytes(BIG_MIB * MIB);
      await writeFile(join(outside, "given"), given);
      const [wrote, read, got] = (await inside(box, ["python3", "-c", BIG])).split(" ").map(Number);
      assert.equal(read, wrote);
      assert.equal(got, crc32(given));
      const made = await readFile(join(outside, "made"));
      assert.deepEqual([made.length, crc32(made)], [BIG_MIB * MIB, wrote]);
    },
    { timeoutMs: 180_000 },
  );

  check(
    `${FILES} small files go out and in`,
    async (context) => {
      const { outside, box } = await shared(context);
      let sum = 0;
      for (let i = 0; i < GIVEN; i += 1) {
        if (i < 20) await mkdir(join(outside, "given", String(i)), { recursive: true });
        await writeFile(join(outside, "given", String(i % 20), String(i)), String(i));
        sum += i;
      }
      assert.equal(await inside(box, ["python3", "-c", MANY]), `${GIVEN} ${sum}\n`);
      const made = await readdir(join(outside, "made"), { recursive: true, withFileTypes: true });
      const texts = await Promise.all(made.filter((e) => e.isFile()).map((e) => readFile(join(e.parentPath, e.name))));
      const total = texts.reduce((all, text) => all + Number(text.toString()), 0);
      assert.deepEqual([texts.length, total], [FILES, (FILES * (FILES - 1)) / 2]);
    },
    { timeoutMs: 180_000 },
  );

  check("writers at once lose nothing", async (context) => {
    const { outside, box } = await shared(context);
    assert.equal(await inside(box, ["python3", "-c", CONCURRENT]), "0\n");
    const lines = async (name: string): Promise<readonly string[]> =>
      (await readFile(join(outside, name), "utf8")).trimEnd().split("\n");
    for (let w = 0; w < WRITERS; w += 1)
      assert.deepEqual(
        await lines(`own-${w}`),
        Array.from({ length: LINES }, (_, i) => `${w} ${i}`),
      );
    assert.equal(new Set(await lines("every")).size, WRITERS * LINES);
  });

  check(
    "files on a mount live as programs expect: renamed, linked, mapped, locked, used after they are unlinked",
    async (context) => {
      const { box } = await shared(context);
      assert.equal(await inside(box, ["python3", "-c", LIFE]), "\n");
    },
  );

  check(
    "a file can be mounted, a mount lie in a mount, a target be made and lie behind a link of the image",
    async (context) => {
      const [first, second] = [await directory(context), await directory(context)];
      const file = join(second, "file");
      await writeFile(file, "a file\n");
      await writeFile(join(second, "beside"), "beside\n");
      const own = await context.fresh({
        mounts: [
          { source: first, target: "/mnt/a" },
          { source: second, target: "/mnt/a/below/deep", readOnly: true },
          { source: file, target: "/opt/new/file" },
          { source: file, target: "/etc/motd", readOnly: true },
          { source: second, target: "/var/run/place", readOnly: true },
        ],
      });
      const script =
        "cat /mnt/a/below/deep/beside /opt/new/file /etc/motd /run/place/beside; echo changed > /opt/new/file; echo x > /etc/motd";
      const result = await own.run(["sh", "-c", script], { user: "root" });
      assert.equal(result.stdout.toString(), "beside\na file\na file\nbeside\n", result.stderr.toString());
      assert.notEqual(result.code, 0, "a read-only file was written to");
      assert.equal(await readFile(file, "utf8"), "changed\n");
      assert.ok((await stat(join(first, "below/deep"))).isDirectory());
    },
  );

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
    { notFor: ownKernelOnly, timeoutMs: 180_000 },
  );
});
