import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import {
  appendFile,
  chmod,
  chown,
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
import { freshDirectory } from "../host.ts";

const MIB = 1024 * 1024;
const BIG_MIB = 100;
const FILES = 2_000;
const GIVEN = 200;
const WRITERS = 8;
const LINES = 100;
/** The image's `user`. */
export const USER = 1000;
export const INSIDE = "/mnt/shared";

/** A directory of the host's, the sandbox user's own. */
export async function directory({ defer }: Context, prefix = "conformance-mount-"): Promise<string> {
  const path = await freshDirectory(prefix);
  defer(() => rm(path, { recursive: true }));
  await chown(path, USER, USER);
  return path;
}

export interface Shared {
  readonly outside: string;
  readonly box: Box;
}

export async function shared(context: Context): Promise<Shared> {
  const outside = await directory(context);
  return { outside, box: await context.fresh({ mounts: [{ source: outside, target: INSIDE }] }) };
}

/** Runs a script in the mount and gives what it wrote; fails with its errors. */
export async function inside(box: Box, argv: readonly string[], user = "user"): Promise<string> {
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
    { timeoutMs: 300_000 },
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
    { timeoutMs: 300_000 },
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
});
