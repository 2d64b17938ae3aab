import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import type { Engine, Sandbox } from "@bulkhead/engine";
import { NOTHING_SAID } from "@bulkhead/engine/images";
import { describe, expect, test } from "vitest";
import { engineOf, lack, missing, openDirectory } from "./support/boxes.ts";
import { DRIVERS } from "./support/catalogue.ts";
import { HOSTILE_IMAGES, makeTrap, type Trap } from "./support/trap.ts";

const TIMEOUT_MS = 300_000;
const WRITTEN = [
  "/etc/hosts",
  "/etc/hostname",
  "/etc/resolv.conf",
  "/etc/passwd",
  "/usr/bin/sudo",
  "/dev/null",
  "/tmp/new",
];

/** What a careless program does: it writes and mounts by joined names. */
const CARELESS = `
for file in etc/hosts etc/hostname etc/resolv.conf; do echo sandbox > "$1/$file"; done
mount -t tmpfs none "$1/dev" && mkdir "$1/dev/made"
cat "$1/etc/passwd"`;

/** An image in the store that is nothing but its links; gone, with its name, when disposed of. */
async function hostileImage(engine: Engine, make: (root: string) => void): Promise<{ name: string } & AsyncDisposable> {
  const name = `escape-${randomBytes(6).toString("hex")}`;
  await using fresh = await engine.images.begin({});
  mkdirSync(join(fresh.dir, "rootfs"), { mode: 0o755 });
  make(join(fresh.dir, "rootfs"));
  await engine.images.commit(
    fresh.dir,
    `sha256:${randomBytes(32).toString("hex")}`,
    {
      version: 1,
      env: {},
      user: "0",
      workdir: "/",
      ...NOTHING_SAID,
      architecture: process.arch,
      description: "links that lead out",
      fileCount: 0,
      sizeBytes: 0,
    },
    name,
  );
  return { name, [Symbol.asyncDispose]: async () => void (await engine.images.remove(name)) };
}

/** Reads, writes and deletes through every link, as root inside. What the level refuses is refused. */
async function useEverything(box: Sandbox, trap: Trap): Promise<string> {
  const user = "0";
  const texts: string[] = [];
  const tried = async (action: Promise<unknown>): Promise<void> => {
    try {
      texts.push(String(await action));
    } catch (error) {
      if (!(error instanceof BulkheadError)) throw error;
    }
  };
  for (const path of [...WRITTEN, ...WRITTEN.map((name) => `${trap.path}${name}`)]) {
    await tried(box.files.readText(path, { user }));
    await tried(box.files.write(path, "overwritten", { user }));
    await tried(box.files.write(path, "overwritten", { user, atomic: true, parents: true }));
    await tried(box.files.chmod(path, 0o777, { user }));
    await tried(box.files.remove(path, { user }));
  }
  for (const path of ["/etc", "/usr", "/home", `${trap.path}/etc`]) {
    await tried(box.files.list(path, { user }).then((list) => list.map((entry) => entry.path).join(" ")));
    await tried(box.files.remove(path, { user, recursive: true }));
  }
  return texts.join("\n");
}

/** A sandbox, or null where it was refused as it should be, with a typed error. */
async function startOrRefuse(engine: Engine, image: string): Promise<Sandbox | null> {
  try {
    return await engine.create({ image, isolation: engine.candidates[0]?.driver.level ?? "container" });
  } catch (error) {
    if (!(error instanceof BulkheadError) || error.code === "INTERNAL") throw error;
    console.log(`${engine.candidates[0]?.driver.name} refuses: ${error.message}`);
    return null;
  }
}

// Sandboxes need root, the two binaries and an image: where one is missing nothing here can be true or false.
describe.skipIf(missing.length > 0)(
  `CVE-2018-15664, CVE-2024-0132: links in images and uploads${lack}`,
  { timeout: TIMEOUT_MS },
  () => {
    test.each(Object.entries(HOSTILE_IMAGES))(
      "control: who prepares a root by joined names falls to: %s",
      (_, make) => {
        using base = openDirectory();
        for (const name of ["trap", "root"]) mkdirSync(join(base.path, name));
        const trap = makeTrap(join(base.path, "trap"));
        const before = trap.state();
        make(join(base.path, "root"), trap.path);
        const argv = ["--mount", "--propagation", "private", "sh", "-c", CARELESS, "sh", join(base.path, "root")];
        expect(execFileSync("unshare", argv, { encoding: "utf8" })).toContain(trap.secret);
        expect(trap.state()).not.toEqual(before);
      },
    );

    describe.each(DRIVERS)("%s", (driver) => {
      for (const [kind, make] of Object.entries(HOSTILE_IMAGES)) {
        test(`an image: ${kind}`, async ({ skip }) => {
          using base = openDirectory();
          const engine = await engineOf(driver, join(base.path, "run"));
          if (typeof engine === "string") return skip(engine);
          await using _engine = engine;
          mkdirSync(join(base.path, "trap"));
          const trap = makeTrap(join(base.path, "trap"));
          const before = trap.state();
          let texts = "";
          {
            await using image = await hostileImage(engine, (root) => make(root, trap.path));
            await using box = await startOrRefuse(engine, image.name);
            if (box !== null) texts = await useEverything(box, trap);
          }
          // The image has been removed as well, and what its links lead to has not.
          expect(texts).not.toContain(trap.secret);
          expect(trap.state()).toEqual(before);
        });
      }
    });
  },
);
