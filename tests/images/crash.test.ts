import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { prepareImage, pullImage, verifyImages } from "@bulkhead/engine/images";
import { Layout, tarOf, tarOfFiles } from "./support/layout.ts";
import { ownRegistry } from "./support/own-registry.ts";
import { lackingRegistry } from "./support/registry.ts";
import { contents, pullingInto, scratch } from "./support/scene.ts";

const TIMEOUT_MS = 300_000;
const GONE_WITHIN = { timeout: 60_000 };
const ENGINE = join(import.meta.dirname, "../../packages/engine/src/images.ts");
/** So many files take long enough to unpack that a program in the middle of it can be met. */
const MANY_FILES = 3000;
const missing = lackingRegistry().filter((name) => !name.includes("docker-registry"));
const hasMkfs = existsSync("/usr/bin/mkfs.erofs");
const lack = missing.length > 0 ? `: NOT TESTED, this machine lacks ${missing.join(", ")}` : "";

/** Another process that works on the store; `body` has `images` (the engine's) and `pulling`. */
function elsewhere(
  state: string,
  home: string,
  body: string,
): { pid: number; ended: Promise<NodeJS.Signals | number | null> } {
  const script = `
    const images = await import(${JSON.stringify(ENGINE)});
    const base = images.pullingOf({ state: ${JSON.stringify(state)} });
    const pulling = { ...base, environment: { PATH: base.environment.PATH, HOME: ${JSON.stringify(home)} } };
    ${body}`;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", script], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  const ended = new Promise<NodeJS.Signals | number | null>((resolve) => {
    child.once("close", (code, signal) => resolve(signal ?? code));
  });
  return { pid: child.pid ?? 0, ended };
}

/** Pids of programs with this path in their command line or as their working directory. */
function workers(state: string): readonly string[] {
  return readdirSync("/proc").filter((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(`${state}/`);
    } catch {
      return false;
    }
  });
}

// Without skopeo nothing is pulled.
describe.skipIf(missing.length > 0)(`kill -9 and company${lack}`, { timeout: TIMEOUT_MS }, () => {
  test("killed while a layer comes: nothing is there but what came whole, and that is not fetched again", async () => {
    const dir = scratch();
    const state = join(dir, "state");
    const layout = new Layout(join(dir, "layout"));
    const layers = ["first", "second"].map((name) => tarOfFiles({ [name]: randomBytes(100_000) }));
    const made = layout.image({ layers });
    const [first, second] = made.layers.map(({ digest }) => digest);
    let isStalling = true;
    await using registry = await ownRegistry(layout.dir, made, (request, response) => {
      if (!isStalling || request.url?.endsWith(second!) !== true) return false;
      response.writeHead(200, { "content-length": made.layers[1]!.size });
      response.write(Buffer.alloc(1000));
      return true;
    });
    const reference = `${registry.host}/killed:1`;
    const pull = elsewhere(state, dir, `await images.pullImage(${JSON.stringify(reference)}, pulling);`);
    await expect.poll(() => contents(state).blobs, GONE_WITHIN).toContain(first!.slice("sha256:".length));
    process.kill(pull.pid, "SIGKILL");
    expect(await pull.ended).toBe("SIGKILL");
    await expect.poll(() => workers(state), GONE_WITHIN).toEqual([]);
    expect(contents(state)).toMatchObject({ images: [], layers: [] });
    expect(contents(state).unfinished).toHaveLength(1);

    isStalling = false;
    const before = registry.requests.length;
    const image = await pullImage(reference, pullingInto(state, { HOME: dir }));
    expect(image.digest).toBe(made.digest);
    const again = registry.requests.slice(before);
    expect(again.filter((request) => request.includes(first!))).toEqual([]);
    expect(again.filter((request) => request.includes(second!))).toHaveLength(1);
    expect(contents(state).unfinished).toEqual([]);
  });

  test("killed while a layer is unpacked: no layer and no image, and the next pull makes both", async () => {
    const dir = scratch();
    const state = join(dir, "state");
    const files = join(dir, "files");
    mkdirSync(files);
    for (let i = 0; i < MANY_FILES; i += 1) writeFileSync(join(files, `${i}`), `${i}`);
    const layout = new Layout(join(dir, "layout"));
    layout.tag("one", layout.image({ layers: [tarOf(files)] }));
    const reference = `oci:${layout.dir}:one`;
    const begun = `fs.globSync(${JSON.stringify(join(state, "images/.new-*/layer-*/tree/*"))}).length > 0`;
    const look = `setInterval(() => { if (${begun}) process.kill(process.pid, "SIGKILL"); }, 1);`;
    const body = `const fs = await import("node:fs"); ${look} await images.pullImage(${JSON.stringify(reference)}, pulling);`;
    const pull = elsewhere(state, dir, body);
    expect(await pull.ended).toBe("SIGKILL");
    await expect.poll(() => workers(state), GONE_WITHIN).toEqual([]);
    expect(contents(state)).toMatchObject({ images: [], layers: [] });
    const pulling = pullingInto(state, { HOME: dir });
    const { rootfs } = await pullImage(reference, pulling);
    expect(readdirSync(rootfs)).toHaveLength(MANY_FILES);
    expect(contents(state).unfinished).toEqual([]);
  });

  // Nothing is converted without it.
  test.skipIf(!hasMkfs)(
    "killed while it is made into a file for microVMs: there is none, and the next one is right",
    async () => {
      const dir = scratch();
      const state = join(dir, "state");
      const layout = new Layout(join(dir, "layout"));
      layout.tag(
        "one",
        layout.image({ layers: [tarOfFiles({ big: randomBytes(16 * 1024 * 1024) })], compression: "none" }),
      );
      const pulling = pullingInto(state, { HOME: dir });
      const reference = `oci:${layout.dir}:one`;
      const image = await pullImage(reference, pulling);
      const file = join(image.rootfs, "../root.erofs");
      const look = `setInterval(() => { if (fs.existsSync(${JSON.stringify(`${file}.part`)})) process.kill(process.pid, "SIGKILL"); }, 1);`;
      const body = `const fs = await import("node:fs"); ${look} await images.prepareImage(pulling.store, ${JSON.stringify(reference)});`;
      expect(await elsewhere(state, dir, body).ended).toBe("SIGKILL");
      await expect.poll(() => workers(state), GONE_WITHIN).toEqual([]);
      expect(existsSync(file)).toBe(false);
      expect((await prepareImage(pulling.store, reference)).path).toContain("root.erofs");
      expect(existsSync(`${file}.part`)).toBe(false);
      expect((await verifyImages([reference], pulling))[0]?.problems).toEqual([]);
    },
  );

  test("four processes that pull the same at a time: each part is fetched once", async () => {
    const dir = scratch();
    const state = join(dir, "state");
    const layout = new Layout(join(dir, "layout"));
    const made = layout.image({ layers: ["a", "b", "c"].map((name) => tarOfFiles({ [name]: randomBytes(50_000) })) });
    await using registry = await ownRegistry(layout.dir, made);
    const reference = JSON.stringify(`${registry.host}/same:1`);
    const pulls = Array.from({ length: 4 }, () =>
      elsewhere(state, dir, `await images.pullImage(${reference}, pulling);`),
    );
    expect(await Promise.all(pulls.map(({ ended }) => ended))).toEqual([0, 0, 0, 0]);
    for (const { digest } of made.layers) {
      expect(registry.requests.filter((request) => request.startsWith("GET") && request.endsWith(digest))).toHaveLength(
        1,
      );
    }
    expect(contents(state)).toMatchObject({ unfinished: [] });
    expect(contents(state).layers).toHaveLength(3);
    expect(contents(state).images).toEqual([made.digest.replace(":", "-")]);
  });
});
