import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ImageStore, collectGarbage } from "@bulkhead/engine/images";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { lacking, start, type Outcome } from "../e2e/cli-process.ts";
import { environment, stateDir } from "./support/config.ts";
import { Layout, tarOf, tarOfFiles } from "./support/layout.ts";
import { lackingRegistry, startRegistry, type Registry } from "./support/registry.ts";
import { smallDebian } from "./support/userland.ts";

const TIMEOUT_MS = 600_000;
const LEVELS = ["container", "gvisor", "microvm"] as const;
/** The exit code of a level that this machine cannot have. */
const UNAVAILABLE = 120;
const missing = [...lackingRegistry(), ...lacking(environment)];
const lack = missing.length > 0 ? `: NOT TESTED, this machine lacks ${missing.join(", ")}` : "";
const PRINT = 'id; pwd; cat /etc/motd; echo "$GREETING"; ls /data';
const PRINTED = "uid=1234(app) gid=1234(app) groups=1234(app)\n/srv\nfrom the image\nhello\na b\nc\n";

// Set-up brings all of it; on a machine that has none of it nothing here can be true or false.
describe.skipIf(missing.length > 0)(`run with an image from a registry${lack}`, { timeout: TIMEOUT_MS }, () => {
  const dir = mkdtempSync(join(tmpdir(), "bulkhead-run-image-"));
  const store = new ImageStore(stateDir);
  let registry: Registry;
  let reference: string;

  const cli = (...words: readonly string[]): Promise<Outcome> =>
    start(words, { ...environment, BULKHEAD_RUN: join(dir, "run"), HOME: dir, NO_COLOR: "1" }).outcome;

  beforeAll(async () => {
    chmodSync(dir, 0o755);
    registry = await startRegistry();
    reference = `${registry.host}/team/app:1.0`;
    const root = join(dir, "root");
    mkdirSync(root);
    chmodSync(root, 0o755);
    smallDebian(store.resolve("base").rootfs, root);
    for (const path of ["etc", "srv", "tmp", "proc", "dev", "sys"]) mkdirSync(join(root, path));
    writeFileSync(join(root, "etc/passwd"), "root:x:0:0::/:/bin/sh\napp:x:1234:1234::/srv:/bin/sh\n");
    writeFileSync(join(root, "etc/group"), "root:x:0:\napp:x:1234:\n");
    const layers = [tarOf(root), tarOfFiles({ "etc/motd": "from the image\n", "data/a b": "1", "data/c": "2" })];
    const config = { User: "app", WorkingDir: "/srv", Env: ["GREETING=hello", "PATH=/usr/bin:/bin"] };
    const layout = new Layout(join(dir, "layout"));
    layout.tag("one", layout.image({ layers, config, compression: "zstd" }));
    await registry.push(layout.dir, "one", "team/app:1.0");
  }, TIMEOUT_MS);

  afterAll(async () => {
    if (store.find(reference) !== null) await store.remove(reference);
    await collectGarbage(store);
    await registry?.[Symbol.asyncDispose]();
    rmSync(dir, { recursive: true, force: true });
  }, TIMEOUT_MS);

  test("what is not in the store is not pulled when that is said, and is pulled otherwise", async () => {
    const never = await cli("run", "--pull", "never", "--image", reference, "--isolation", "container", "--", "true");
    expect(never).toMatchObject({ code: 121, stdout: "" });
    expect(never.stderr).toContain("is not in the store");
    expect((await cli("explain", "--image", reference, "--isolation", "container")).code).toBe(121);
    expect((await cli("run", "--pull", "often", "--image", reference, "true")).stderr).toContain(
      "missing, always, never",
    );
    expect(store.find(reference)).toBeNull();
  });

  test.each(LEVELS)("prints the same at %s", async (level) => {
    const { code, stdout, stderr } = await cli(
      "run",
      "--isolation",
      level,
      "--image",
      reference,
      "--",
      "sh",
      "-c",
      PRINT,
    );
    if (code === UNAVAILABLE) return console.log(`NOT TESTED, ${level} cannot be had here: ${stderr}`);
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: PRINTED, stderr: "" });
  });

  test("the command shows it, prepares, verifies and removes it", async () => {
    await cli("image", "pull", reference);
    const shown = JSON.parse((await cli("image", "inspect", reference)).stdout) as {
      names: string[];
      digest: string;
    }[];
    expect(shown[0]?.names).toEqual([reference]);
    expect((await cli("image", "list")).stdout).toContain(reference);
    expect(await cli("image", "verify", reference)).toMatchObject({ code: 0, stdout: `${reference}: whole\n` });
    const again = await cli("image", "pull", "--json", reference);
    expect(JSON.parse(again.stdout)).toEqual([{ reference, digest: shown[0]?.digest }]);
    expect(again.stderr).toContain("asking for the manifest");
    expect(await cli("image", "remove", reference)).toMatchObject({ code: 0, stdout: `${reference}: removed\n` });
    expect((await cli("image", "gc")).stdout).toMatch(/removed [1-9]\d* unpacked layers and [1-9]\d* files/);
  });

  test("what the command does not understand it says", async () => {
    expect((await cli("image", "pull")).code).toBe(121);
    expect((await cli("image", "pull", "Upper/Case")).stderr).toContain("did you mean upper/case?");
    expect((await cli("image", "list", "--keep", "1g")).stderr).toContain("it is for image gc");
    expect((await cli("image", "gc", "--keep", "much")).code).toBe(121);
    expect((await cli("image", "push")).stderr).toContain("pull, list, inspect");
  });
});
