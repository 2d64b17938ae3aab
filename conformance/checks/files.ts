import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import type { FileEntry } from "../box.ts";
import { fails, theme } from "../check.ts";

const MIB = 1024 * 1024;

function names(entries: readonly FileEntry[], base: string): string[] {
  return entries.map((e) => e.path.toString("latin1").replace(`${base}/`, "")).sort();
}

export const fileChecks = theme("files", "function", (check) => {
  check("write and read back every byte value", async ({ box, scratch }) => {
    const data = Buffer.from(Array.from({ length: 1024 }, (_, i) => i % 256));
    await box.files.write(`${scratch}/f`, data);
    assert.deepEqual(await box.files.read(`${scratch}/f`), data);
    await box.files.write(`${scratch}/empty`, "");
    assert.equal((await box.files.read(`${scratch}/empty`)).length, 0);
  });

  check("write replaces, append adds, exclusive refuses what exists", async ({ box, scratch }) => {
    const path = `${scratch}/f`;
    await box.files.write(path, "a long first content");
    await box.files.write(path, "short");
    await box.files.write(path, "+more", { how: "append" });
    assert.equal((await box.files.read(path)).toString(), "short+more");
    await fails("FILE_EXISTS", () => box.files.write(path, "x", { how: "exclusive" }));
    assert.equal((await box.files.read(path)).toString(), "short+more");
    await box.files.write(`${scratch}/new`, "x", { how: "exclusive" });
  });

  check("an atomic write leaves one file, and readers see the old or the new", async ({ box, scratch }) => {
    const path = `${scratch}/f`;
    await box.files.write(path, "a".repeat(200_000), { how: "atomic" });
    const code = `import sys
bad=0
for _ in range(400):
    d=open('${path}').read()
    if len(d)!=200000 or len(set(d))!=1: bad+=1
print(bad)`;
    const reader = box.run(["python3", "-c", code]);
    for (const letter of "bcdefghij") await box.files.write(path, letter.repeat(200_000), { how: "atomic" });
    assert.equal((await reader).stdout.toString(), "0\n");
    assert.deepEqual(names(await box.files.list(scratch), scratch), ["f"]);
  });

  check("mode of a new file, whatever the umask", async ({ box, scratch }) => {
    await box.files.write(`${scratch}/x`, "", { mode: 0o751 });
    assert.equal((await box.files.stat(`${scratch}/x`)).mode, 0o751);
    await box.files.write(`${scratch}/d`, "");
    assert.equal((await box.files.stat(`${scratch}/d`)).mode, 0o644);
  });

  check("parents are made when asked for, and only then", async ({ box, scratch }) => {
    await fails("FILE_NOT_FOUND", () => box.files.write(`${scratch}/a/b/c`, "x"));
    await box.files.write(`${scratch}/a/b/c`, "x", { makeParents: true });
    const made = await box.files.stat(`${scratch}/a/b`);
    assert.deepEqual([made.kind, made.uid], ["directory", 1000]);
  });

  check("part of a file by offset and length", async ({ box, scratch }) => {
    await box.files.write(`${scratch}/f`, "0123456789");
    assert.equal((await box.files.read(`${scratch}/f`, { offset: 3, length: 4 })).toString(), "3456");
    assert.equal((await box.files.read(`${scratch}/f`, { offset: 8, length: 100 })).toString(), "89");
    assert.equal((await box.files.read(`${scratch}/f`, { offset: 100 })).length, 0);
  });

  check("relative paths start at the user's home", async ({ box, defer }) => {
    defer(() => box.files.remove("relative-check"));
    await box.files.write("relative-check", "x");
    assert.equal((await box.files.read("/home/user/relative-check")).toString(), "x");
  });

  check("20 MiB as a stream, both ways", async ({ box, scratch }) => {
    const data = randomBytes(20 * MIB);
    const digest = createHash("sha256").update(data).digest("hex");
    await box.files.writeStream(`${scratch}/big`, Readable.from(chunks(data), { objectMode: false }));
    const inside = await box.run(["sha256sum", `${scratch}/big`]);
    assert.equal(inside.stdout.toString().slice(0, 64), digest);
    const back = createHash("sha256");
    for await (const part of await box.files.readStream(`${scratch}/big`)) back.update(part as Buffer);
    assert.equal(back.digest("hex"), digest);
  });

  check("a file with no size, such as those of /proc", async ({ box }) => {
    assert.match((await box.files.read("/proc/self/status")).toString(), /^Name:/);
  });

  check("stat tells kind, mode, owner, size, time and target", async ({ box, scratch }) => {
    await box.files.write(`${scratch}/f`, "12345", { mode: 0o640 });
    await box.files.symlink(`${scratch}/link`, "f");
    const file = await box.files.stat(`${scratch}/f`);
    assert.deepEqual([file.kind, file.mode, file.uid, file.gid, file.size], ["file", 0o640, 1000, 1000, 5]);
    assert.deepEqual([file.owner, file.group], ["user", "user"]);
    assert.ok(Math.abs(file.mtimeMs - Date.now()) < 60_000, "the time of writing is not now");
    const link = await box.files.stat(`${scratch}/link`, { follow: false });
    assert.deepEqual([link.kind, link.target?.toString()], ["symlink", "f"]);
    assert.equal((await box.files.stat(`${scratch}/link`)).kind, "file");
    await box.run(["mkfifo", `${scratch}/fifo`]);
    assert.equal((await box.files.stat(`${scratch}/fifo`)).kind, "fifo");
    assert.equal((await box.files.stat("/dev/null")).kind, "character");
    assert.equal((await box.files.stat("/")).kind, "directory");
  });

  check("list one level, and deeper when asked", async ({ box, scratch }) => {
    await box.run(["sh", "-c", "mkdir -p a/b/c; touch top a/one a/b/two a/b/c/three"], { cwd: scratch });
    assert.deepEqual(names(await box.files.list(scratch), scratch), ["a", "top"]);
    assert.deepEqual(names(await box.files.list(scratch, { depth: 2 }), scratch), ["a", "a/b", "a/one", "top"]);
    const all = ["a", "a/b", "a/b/c", "a/b/c/three", "a/b/two", "a/one", "top"];
    assert.deepEqual(names(await box.files.list(scratch, { depth: 10 }), scratch), all);
  });

  check("listing does not walk through links", async ({ box, scratch }) => {
    await box.run(["sh", "-c", "mkdir d; ln -s .. d/up; ln -s / d/root; ln -s nowhere d/broken"], { cwd: scratch });
    const got = names(await box.files.list(scratch, { depth: 20 }), scratch);
    assert.deepEqual(got, ["d", "d/broken", "d/root", "d/up"]);
  });

  check("list 5,000 files", async ({ box, scratch }) => {
    await box.run(["python3", "-c", `[open('${scratch}/f%d' % i, 'w').close() for i in range(5000)]`]);
    assert.equal((await box.files.list(scratch)).length, 5000);
  });

  check("make, move, remove", async ({ box, scratch }) => {
    await box.files.makeDirectory(`${scratch}/d/e`, { parents: true, mode: 0o700 });
    await box.files.write(`${scratch}/d/f`, "1");
    await box.files.move(`${scratch}/d/f`, `${scratch}/g`);
    await fails("FILE_NOT_FOUND", () => box.files.stat(`${scratch}/d/f`));
    await box.files.write(`${scratch}/h`, "2");
    await fails("FILE_EXISTS", () => box.files.move(`${scratch}/h`, `${scratch}/g`, { overwrite: false }));
    await box.files.move(`${scratch}/h`, `${scratch}/g`, { overwrite: true });
    assert.equal((await box.files.read(`${scratch}/g`)).toString(), "2");
    await fails(["FILE_FAILED", "FILE_IS_A_DIRECTORY", "FILE_EXISTS"], () => box.files.remove(`${scratch}/d`));
    await box.files.remove(`${scratch}/d`, { recursive: true });
    await box.files.remove(`${scratch}/g`);
    assert.deepEqual(await box.files.list(scratch), []);
  });

  check("removing a tree removes a link, not what it names", async ({ box, scratch }) => {
    await box.run(["sh", "-c", "mkdir keep t; echo x > keep/f; ln -s ../keep t/link"], { cwd: scratch });
    await box.files.remove(`${scratch}/t`, { recursive: true });
    assert.equal((await box.files.read(`${scratch}/keep/f`)).toString(), "x\n");
  });

  check("errors are typed and name the path", async ({ box, scratch }) => {
    const missing = await fails("FILE_NOT_FOUND", () => box.files.read(`${scratch}/missing`));
    assert.match(missing.message, /missing/);
    await fails("FILE_IS_A_DIRECTORY", () => box.files.read(scratch));
    await fails("FILE_NOT_A_DIRECTORY", () => box.files.list("/etc/passwd"));
    await fails("FILE_NOT_A_DIRECTORY", () => box.files.read("/etc/passwd/x"));
    await fails("FILE_EXISTS", () => box.files.makeDirectory(scratch));
    await fails("FILE_NOT_FOUND", () => box.files.remove(`${scratch}/missing`));
    await fails("USER_NOT_FOUND", () => box.files.read("/etc/passwd", { user: "no-such-user" }));
  });

  check("permissions are those of the user named", async ({ box, scratch }) => {
    await box.files.write(`${scratch}/secret`, "root only", { user: "root", mode: 0o600 });
    await fails("FILE_PERMISSION", () => box.files.read(`${scratch}/secret`));
    await fails("FILE_PERMISSION", () => box.files.write("/etc/made-by-user", "x"));
    await fails("FILE_PERMISSION", () => box.files.read("/etc/shadow"));
    await fails("FILE_PERMISSION", () => box.files.list("/root"));
    await fails("FILE_PERMISSION", () => box.files.chown(`${scratch}/secret`, "user", "user"));
    assert.equal((await box.files.read(`${scratch}/secret`, { user: "root" })).toString(), "root only");
    assert.equal((await box.files.stat(`${scratch}/secret`)).uid, 0);
  });

  check("chmod and chown", async ({ box, scratch }) => {
    await box.files.write(`${scratch}/f`, "x");
    await box.files.chmod(`${scratch}/f`, 0o604);
    assert.equal((await box.files.stat(`${scratch}/f`)).mode, 0o604);
    await box.files.chown(`${scratch}/f`, "root", "1000", { user: "root" });
    const entry = await box.files.stat(`${scratch}/f`);
    assert.deepEqual([entry.uid, entry.gid], [0, 1000]);
  });

  check("names that are not text, or not tame", async ({ box, scratch }) => {
    const odd = [
      Buffer.from("new\nline"),
      Buffer.from(" leading and trailing "),
      Buffer.from("-rf"),
      Buffer.from("*?[x]'\"\\$`"),
      Buffer.from("ünïcode-✓"),
      Buffer.from([0x62, 0xff, 0xfe, 0x80, 0x62]),
      Buffer.from("x".repeat(255)),
    ];
    for (const name of odd) {
      const path = Buffer.concat([Buffer.from(`${scratch}/`), name]);
      await box.files.write(path, name);
      assert.deepEqual(await box.files.read(path), name);
      assert.deepEqual((await box.files.stat(path)).path.subarray(-name.length), name);
    }
    const listed = (await box.files.list(scratch)).map((e) => e.path.subarray(scratch.length + 1).toString("hex"));
    assert.deepEqual(listed.sort(), odd.map((n) => n.toString("hex")).sort());
    await fails(["FILE_FAILED", "SPEC_INVALID"], () => box.files.write(`${scratch}/${"x".repeat(256)}`, "x"));
    await fails(["FILE_FAILED", "SPEC_INVALID", "FILE_NOT_FOUND"], () => box.files.write(`${scratch}/nul\0byte`, "x"));
  });

  check("30 reads and writes at once", async ({ box, scratch }) => {
    const data = Array.from({ length: 30 }, () => randomBytes(100_000));
    await Promise.all(data.map((d, i) => box.files.write(`${scratch}/p${i}`, d)));
    const back = await Promise.all(data.map((_, i) => box.files.read(`${scratch}/p${i}`)));
    back.forEach((b, i) => assert.deepEqual(b, data[i]));
  });
});

function* chunks(data: Buffer): Generator<Buffer> {
  for (let at = 0; at < data.length; at += 70_001) yield data.subarray(at, at + 70_001);
}
