import assert from "node:assert/strict";
import {
  chmod,
  lstat,
  lutimes,
  mkdir,
  readdir,
  readFile,
  readlink,
  rm,
  symlink,
  utimes,
  writeFile,
} from "node:fs/promises";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import type { Context } from "../check.ts";
import { fails, theme } from "../check.ts";
import { freshDirectory, hostCommand } from "../host.ts";

const BIG_BYTES = 8 * 1024 * 1024;
const SMALL_FILES = 60;
const PAST_S = 981_173_106;

async function directory({ defer }: Context): Promise<string> {
  const path = await freshDirectory("conformance-copy-");
  defer(() => rm(path, { recursive: true }));
  return path;
}

/** Kind, mode, time in seconds and contents of all that is in a tree, by path; names are bytes as latin1. */
async function told(root: string, below = Buffer.from(root)): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const name of await readdir(below, { encoding: "buffer" })) {
    const path = Buffer.concat([below, Buffer.from("/"), name]);
    const about = await lstat(path);
    const [mode, shown] = [
      `${about.mode.toString(8)} ${Math.floor(about.mtimeMs / 1000)}`,
      path.subarray(root.length).toString("latin1"),
    ];
    if (about.isSymbolicLink()) found[shown] = `link ${await readlink(path)}`;
    else found[shown] = about.isFile() ? `${mode} ${(await readFile(path)).toString("base64")}` : mode;
    if (about.isDirectory()) Object.assign(found, await told(root, path));
  }
  return found;
}

async function tree(root: string): Promise<void> {
  await mkdir(join(root, "deep/er/empty"), { recursive: true });
  await mkdir(join(root, "many"));
  await writeFile(join(root, "big"), randomBytes(BIG_BYTES));
  await writeFile(join(root, "none"), "");
  for (let i = 0; i < SMALL_FILES; i += 1) await writeFile(join(root, `many/${i}`), `${i}`);
  await writeFile(Buffer.from(`${root}/deep/odd \xff\n'"`, "latin1"), "odd");
  await symlink("../none", join(root, "deep/link"));
  await symlink("/etc/shadow", join(root, "deep/out"));
  await writeFile(join(root, "deep/run"), "#!/bin/sh\necho ran\n");
  await chmod(join(root, "deep/run"), 0o750);
  await chmod(join(root, "deep/er"), 0o500);
  await lutimes(join(root, "deep/link"), PAST_S, PAST_S);
  for (const name of ["none", "many", "deep/er", "deep"]) await utimes(join(root, name), PAST_S, PAST_S);
}

export const copyChecks = theme("copy", "function", (check) => {
  check(
    "a tree goes in and comes out as it was: contents, names, modes, times and links",
    async (context) => {
      const { box, scratch } = context;
      const [from, back] = [await directory(context), join(await directory(context), "back")];
      await tree(from);
      const counts = await box.copyIn(from, `${scratch}/tree`);
      assert.deepEqual([counts.files, counts.directories, counts.links], [SMALL_FILES + 4, 5, 2]);
      assert.equal((await box.run([`${scratch}/tree/deep/run`])).stdout.toString(), "ran\n");
      assert.equal((await box.files.stat(`${scratch}/tree/big`)).uid, 1000);
      const dated = ["none", "many", "deep/er", "deep", "deep/link"].map((name) => `${scratch}/tree/${name}`);
      const times = await box.run(["stat", "-c", "%Y", ...dated]);
      assert.equal(times.stdout.toString(), `${PAST_S}\n`.repeat(dated.length));
      assert.deepEqual(await box.copyOut(`${scratch}/tree`, back), counts);
      assert.deepEqual(await told(back), await told(from));
    },
    { timeoutMs: 180_000 },
  );

  check("a file alone, and what cannot be copied, by name", async (context) => {
    const { box, scratch } = context;
    const here = await directory(context);
    await writeFile(join(here, "one"), "one");
    await hostCommand(["mkfifo", join(here, "pipe")]);
    await box.copyIn(join(here, "one"), `${scratch}/one`);
    await box.copyOut(`${scratch}/one`, join(here, "two"));
    assert.equal(await readFile(join(here, "two"), "utf8"), "one");
    await fails("COPY_REFUSED", () => box.copyOut(`${scratch}/one`, join(here, "two")));
    await fails("COPY_REFUSED", () => box.copyIn(join(here, "pipe"), `${scratch}/pipe`));
    await fails("HOST_RESOURCE", () => box.copyIn(join(here, "absent"), `${scratch}/absent`));
    await fails("FILE_NOT_FOUND", () => box.copyOut(`${scratch}/absent`, join(here, "three")));
    await fails("FILE_PERMISSION", () => box.copyIn(join(here, "one"), "/usr/one"));
    assert.deepEqual((await readdir(here)).toSorted(), ["one", "pipe", "two"]);
  });

  check("what a user inside may not read is refused, not left out", async (context) => {
    const { box, scratch } = context;
    const here = await directory(context);
    const script = `mkdir -p ${scratch}/t/closed && touch ${scratch}/t/closed/x && chmod 700 ${scratch}/t/closed && chown 0 ${scratch}/t/closed`;
    assert.equal((await box.run(["sh", "-c", script], { user: "root" })).code, 0);
    await fails("FILE_PERMISSION", () => box.copyOut(`${scratch}/t`, join(here, "t")));
    assert.deepEqual(await readdir(here), []);
    assert.equal((await box.copyOut(`${scratch}/t`, join(here, "t"), { user: "root" })).files, 1);
  });
});
