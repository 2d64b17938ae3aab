import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { walkTree } from "../../../packages/engine/src/image/walk.ts";

/** Places that an engine, a runtime or an agent writes to when it makes a root directory ready. */
const FILES = ["etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/passwd", "etc/group", "usr/bin/sudo", "dev/null"];
const DIRECTORIES = ["proc/self", "sys", "dev/pts", "dev/shm", "bulkhead", "tmp", "root", "home/user", "run", "mnt"];

/** Directories of the host that look like a root file system and hold a secret. Whatever an image leads here must not be touched. */
export interface Trap {
  readonly secret: string;
  readonly path: string;
  /** Everything in it, with contents: equal to what it was as long as nobody wrote here. */
  state(): readonly string[];
}

export function makeTrap(path: string): Trap {
  const secret = randomBytes(16).toString("hex");
  for (const name of DIRECTORIES) mkdirSync(join(path, name), { recursive: true });
  for (const name of FILES) {
    mkdirSync(dirname(join(path, name)), { recursive: true });
    writeFileSync(join(path, name), `root:x:0:0:${secret}:/root:/bin/sh\n`);
  }
  const state = (): readonly string[] =>
    [...walkTree(path)].map(({ path: name, type, mode, uid, gid, link }) => {
      const content = type === "file" ? readFileSync(join(path, name), "latin1") : link;
      return `${name} ${type} ${mode.toString(8)} ${uid}:${gid} ${content}`;
    });
  return { secret, path, state };
}

/** Root file systems whose own directories, or files in them, are links to the trap. */
export const HOSTILE_IMAGES: Readonly<Record<string, (root: string, trap: string) => void>> = {
  "every directory is a link out": (root, trap) => {
    for (const name of ["etc", "proc", "sys", "dev", "usr", "tmp", "root", "home", "run", "mnt"])
      symlinkSync(join(trap, name), join(root, name));
    symlinkSync(join(trap, "bulkhead"), join(root, ".bulkhead"));
  },
  "every file that is written at a start is a link out": (root, trap) => {
    for (const name of ["etc", "proc", "sys", "dev", "usr", "tmp", "root", ".bulkhead"]) mkdirSync(join(root, name));
    for (const name of FILES.filter((file) => file.startsWith("etc/"))) symlinkSync(join(trap, name), join(root, name));
    for (const name of ["null", "zero", "console", "ptmx"])
      symlinkSync(join(trap, "dev/null"), join(root, "dev", name));
    for (const name of ["pts", "shm"]) symlinkSync(join(trap, "dev", name), join(root, "dev", name));
    symlinkSync(join(trap, "usr/bin"), join(root, "usr/bin"));
    symlinkSync(join(trap, "usr/bin/sudo"), join(root, ".bulkhead/agent"));
    symlinkSync(join(trap, "proc/self"), join(root, "proc/self"));
  },
  "links that climb": (root, trap) => {
    const up = `${"../".repeat(20)}${trap.slice(1)}`;
    for (const name of ["etc", "dev", "proc", "sys", "usr", ".bulkhead"])
      symlinkSync(join(up, name.replace(".", "")), join(root, name));
  },
};
