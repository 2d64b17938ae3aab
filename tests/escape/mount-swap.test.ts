import { execFileSync } from "node:child_process";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { randomBytes } from "node:crypto";
import { BulkheadError } from "@bulkhead/contract";
import { describe, expect, test } from "vitest";
import { engineOf, lack, missing, openDirectory } from "./support/boxes.ts";
import { prepare, swapping } from "./support/swap.ts";

/** Starts while the names change; more where by chance none of them has met a change. */
const TRIES = 24;
const MOST_TRIES = 240;
const TIMEOUT_MS = 300_000;

/** What a careless program does: it looks where the name leads, sees that this is allowed, and mounts by name. */
const CARELESS = `
i=0
mkdir -p "$1/careless"
while [ $i -lt 400 ]; do
  i=$((i + 1))
  [ "$(realpath "$1/asked")" = "$1/asked" ] || continue
  mount --bind "$1/asked" "$1/careless" 2>/dev/null || continue
  cat "$1/careless/secret" 2>/dev/null && exit 0
  umount "$1/careless"
done`;

// Sandboxes need root, the two binaries and an image: where one is missing nothing here can be true or false.
describe.skipIf(missing.length > 0)(
  `CVE-2021-30465: a mount's source that changes${lack}`,
  { timeout: TIMEOUT_MS },
  () => {
    test("control: who checks a path and mounts it by name shows the secret", async () => {
      using base = openDirectory();
      const secret = prepare(base.path, join(base.path, "hidden"));
      await using _swap = await swapping(base.path);
      const argv = ["--mount", "--propagation", "private", "sh", "-c", CARELESS, "sh", base.path];
      expect(execFileSync("unshare", argv, { encoding: "utf8" })).toContain(secret);
    });

    test("container: never what a link that took its place leads to", async ({ skip }) => {
      using base = openDirectory();
      const engine = await engineOf("container/crun", join(base.path, "run"));
      if (typeof engine === "string") return skip(engine);
      await using _engine = engine;
      // In the engine's own state: a name that leads there when it is checked is refused, so what leads there later must be.
      const hidden = join(engine.host.paths.state, `escape-${randomBytes(6).toString("hex")}`);
      using cleanup = new DisposableStack();
      cleanup.defer(() => rmSync(hidden, { recursive: true, force: true }));
      const secret = prepare(base.path, hidden);
      const mounts = [{ source: join(base.path, "asked"), target: "/mnt/asked" }];
      // Shows that the mount works when nobody interferes, and gets what is made once per boot out of the way.
      await using calm = await engine.create({ isolation: "container", mounts });
      expect(await calm.files.readText("/mnt/asked/own")).toBe("own");
      await using _swap = await swapping(base.path);
      let shown = 0;
      const refused: string[] = [];
      for (let i = 0; i < TRIES || (refused.length === 0 && i < MOST_TRIES); i += 1) {
        try {
          await using box = await engine.create({ isolation: "container", mounts });
          const { text } = await box.exec("cat /mnt/asked/*", { user: "root" });
          expect(text).not.toContain(secret);
          shown += text === "own" ? 1 : 0;
        } catch (error) {
          if (!(error instanceof BulkheadError)) throw error;
          refused.push(`${error.code} ${error.message}`);
        }
      }
      // Each try ended in one of three ways; that some were refused shows that the names did change under way.
      expect(refused.length).toBeGreaterThan(0);
      // That some were refused shows that the names did change under way.
      expect(refused.length).toBeGreaterThan(0);
      expect(refused.filter((line) => !/^(?:MOUNT_INVALID|RUNTIME_FAILED) /.test(line))).toEqual([]);
      const late = refused.filter((line) => line.includes("symbolic link")).length;
      console.log(`${shown} mounted, ${refused.length} refused, ${late} of them by the keeper`);
    });
  },
);
