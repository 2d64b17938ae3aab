import { execFileSync } from "node:child_process";
import { lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";

import { describe, expect, test } from "vitest";
import { engineOf, lack, missing, openDirectory } from "./support/boxes.ts";
import { DRIVERS } from "./support/catalogue.ts";
import { prepare, swapping } from "./support/swap.ts";
import { makeTrap } from "./support/trap.ts";

const TIMEOUT_MS = 300_000;
const TRIES = 40;

/** What a hostile program leaves to be fetched: links out, up and round, a set-user-id file, a pipe that nobody writes to. */
const TREE = `
mkdir -p /tmp/tree/deep && cd /tmp/tree
ln -s "$1/etc" etc; ln -s "$1/etc/passwd" passwd; ln -s "../../../../../../../../..$1/etc" deep/up; ln -s loop loop; ln -s / top
cp /bin/true raised && chmod 6755 raised; mkfifo pipe; echo mine > file; chmod -R a+rX .`;
/** And then puts in place of a link: who copies once more over what is there writes through the link it has copied first. */
const SECOND = "cd /tmp/tree && rm etc && mkdir etc && echo sandbox > etc/passwd";

/** What a careless program does: it makes what is missing and writes by joined names. */
const CARELESS_WRITER = `
import os,sys
made=sys.argv[1]
for round in ("link","directory"):
    if round=="link": os.symlink(sys.argv[2]+"/etc", made+"/etc")
    else:
        os.makedirs(made+"/etc", exist_ok=True); open(made+"/etc/passwd","w").write("sandbox")`;
/** It looks whether a name is a link, and reads what is then in its place. */
const CARELESS_READER = `
i=0
while [ $i -lt 20000 ]; do
  i=$((i + 1))
  [ -L "$1/asked" ] && continue
  cat "$1/asked/secret" 2>/dev/null && exit 0
done`;

async function refusal(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    if (error instanceof BulkheadError) return error.code;
    throw error;
  }
  return "none";
}

// Sandboxes need root, the two binaries and an image: where one is missing nothing here can be true or false.
describe.skipIf(missing.length > 0)(
  `CVE-2018-15664, CVE-2019-14271: copies into and out of a sandbox${lack}`,
  { timeout: TIMEOUT_MS },
  () => {
    test("control: who copies twice by joined names writes where the first copy's link leads", () => {
      using base = openDirectory();
      for (const name of ["trap", "made"]) mkdirSync(join(base.path, name));
      const trap = makeTrap(join(base.path, "trap"));
      const before = trap.state();
      execFileSync("python3", ["-c", CARELESS_WRITER, join(base.path, "made"), trap.path]);
      expect(trap.state()).not.toEqual(before);
    });

    test.for(DRIVERS)("%s: links that come out lead nowhere while they are copied", async (driver, { skip }) => {
      using base = openDirectory();
      const engine = await engineOf(driver, join(base.path, "run"));
      if (typeof engine === "string") return skip(engine);
      await using _engine = engine;
      mkdirSync(join(base.path, "trap"));
      const trap = makeTrap(join(base.path, "trap"));
      const before = trap.state();
      await using box = await engine.create({ isolation: engine.candidates[0]?.driver.level ?? "container" });
      const made = await box.exec(["sh", "-c", TREE, "sh", trap.path], { user: "root", check: true });
      expect(made.exitCode).toBe(0);
      const to = join(base.path, "out");
      const copied = await box.copyOut("/tmp/tree", to, { user: "root" });
      expect([copied.links, copied.leftOut]).toEqual([5, 1]);
      expect(readdirSync(to).toSorted()).toEqual(["deep", "etc", "file", "loop", "passwd", "raised", "top"]);
      expect(readlinkSync(join(to, "etc"))).toBe(`${trap.path}/etc`);
      expect(lstatSync(join(to, "passwd")).isSymbolicLink()).toBe(true);
      expect(lstatSync(join(to, "raised")).mode & 0o7000).toBe(0);
      expect(readFileSync(join(to, "file"), "utf8")).toBe("mine\n");
      await box.exec(["sh", "-c", SECOND], { user: "root", check: true });
      expect(await refusal(box.copyOut("/tmp/tree", to, { user: "root" }))).toBe("COPY_REFUSED");
      expect(await refusal(box.copyOut("/tmp/tree/etc", join(to, "etc"), { user: "root" }))).toBe("COPY_REFUSED");
      expect(trap.state()).toEqual(before);
    });

    test("control: who looks at a name and then reads by it shows the secret", async () => {
      using base = openDirectory();
      const secret = prepare(base.path, join(base.path, "hidden"));
      await using _swap = await swapping(base.path);
      expect(execFileSync("sh", ["-c", CARELESS_READER, "sh", base.path], { encoding: "utf8" })).toContain(secret);
    });

    test("container: a directory that becomes a link while it is copied in is not followed", async ({ skip }) => {
      using base = openDirectory();
      const engine = await engineOf("container/crun", join(base.path, "run"));
      if (typeof engine === "string") return skip(engine);
      await using _engine = engine;
      const tree = join(base.path, "tree");
      mkdirSync(tree);
      const secret = prepare(tree, join(base.path, "hidden"));
      await using box = await engine.create({ isolation: "container" });
      const holds = async (place: string): Promise<string> => {
        const { text } = await box.exec(["sh", "-c", 'for d in asked link; do [ -L "$d" ] || cat "$d"/*; done'], {
          cwd: place,
        });
        return text;
      };
      await box.copyIn(tree, "/tmp/calm");
      expect(await holds("/tmp/calm")).toBe("own");
      await using _swap = await swapping(tree);
      for (let i = 0; i < TRIES; i += 1) {
        const place = `/tmp/in-${i}`;
        // What changes under way may end a copy; it never leads it elsewhere.
        expect(["none", "HOST_RESOURCE", "COPY_REFUSED"]).toContain(await refusal(box.copyIn(tree, place)));
        if (await box.files.exists(place)) expect(await holds(place)).not.toContain(secret);
      }
    });
  },
);
