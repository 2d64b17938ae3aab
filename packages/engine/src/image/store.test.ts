import { spawn } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { ImageStore, NOTHING_SAID, type ImageConfig } from "./store.ts";

const DIGEST = `sha256:${"a".repeat(64)}`;
const config: ImageConfig = {
  version: 1,
  env: { PATH: "/usr/bin" },
  user: "user",
  workdir: "/home/user",
  architecture: "x64",
  description: "a test",
  ...NOTHING_SAID,
  sizeBytes: 1,
  fileCount: 1,
};

describe("ImageStore", () => {
  let state: string;
  let store: ImageStore;

  beforeEach(() => {
    state = mkdtempSync(join(tmpdir(), "bulkhead-store-"));
    store = new ImageStore(state);
  });

  async function add(name: string, digest = DIGEST): Promise<void> {
    await using fresh = await store.begin({});
    mkdirSync(join(fresh.dir, "rootfs"));
    writeFileSync(join(fresh.dir, "rootfs", "name"), name);
    await store.commit(fresh.dir, digest, config, name);
  }

  const names = (): string[] => readdirSync(join(state, "images")).filter((name) => !/lock$|^holds$/.test(name));

  test("an unknown image, an unusable name and an empty store say what to do next", () => {
    expect(store.list()).toEqual([]);
    expect(() => store.resolve("base")).toThrow(
      expect.objectContaining({ code: "IMAGE_NOT_FOUND", next: expect.stringMatching(/build-base/) }),
    );
    expect(() => store.resolve("nope")).toThrow(
      expect.objectContaining({ message: 'image "nope" is not in the store' }),
    );
    for (const name of ["../x", "a//b", "", "A", "a\0", "x".repeat(201), "sha256:abc/../.."]) {
      expect(() => store.resolve(name), name).toThrow(expect.objectContaining({ code: "SPEC_INVALID" }));
    }
  });

  test("commits by name, resolves by name and digest, readable by root only", async () => {
    await add("team/tools:1.2");
    const image = store.resolve("team/tools:1.2");
    expect(image).toMatchObject({ reference: "team/tools:1.2", digest: DIGEST, config });
    expect(readFileSync(join(image.rootfs, "name"), "utf8")).toBe("team/tools:1.2");
    expect(store.resolve(DIGEST).rootfs).toBe(image.rootfs);
    expect(names().toSorted()).toEqual(["refs", DIGEST.replace(":", "-")]);
  });

  test("says whether /usr/bin is a directory without a link on the way", async () => {
    await add("own");
    const { rootfs } = store.resolve("own");
    expect(store.resolve("own").usrBin).toBe(false);
    mkdirSync(join(rootfs, "bin"));
    mkdirSync(join(rootfs, "usr"));
    symlinkSync("../bin", join(rootfs, "usr/bin"));
    expect(store.resolve("own").usrBin).toBe(false);
    rmSync(join(rootfs, "usr/bin"));
    mkdirSync(join(rootfs, "usr/bin"));
    expect(store.resolve("own").usrBin).toBe(true);
    renameSync(join(rootfs, "usr"), join(rootfs, "sys"));
    symlinkSync("sys", join(rootfs, "usr"));
    expect(store.list()[0]?.usrBin).toBe(false);
  });

  test("what is not committed is gone, and the next build sweeps what a dead one left", async () => {
    {
      await using fresh = await store.begin({});
      mkdirSync(join(fresh.dir, "rootfs"));
    }
    expect(names()).toEqual([]);
    mkdirSync(join(state, "images", ".new-dead", "rootfs"), { recursive: true });
    await add("base");
    expect(names()).not.toContain(".new-dead");
  });

  test("builds wait for each other", async () => {
    const order: string[] = [];
    const first = await store.begin({});
    const second = store.begin({ onWait: () => order.push("waits") }).then(async (fresh) => {
      order.push("second");
      await fresh[Symbol.asyncDispose]();
    });
    await expect.poll(() => order).toEqual(["waits"]);
    await first[Symbol.asyncDispose]();
    await second;
    expect(order).toEqual(["waits", "second"]);
  });

  test("an image goes with its last name, and not while it is used", async () => {
    await add("one");
    await add("two");
    expect(store.list()).toMatchObject([{ names: ["one", "two"], users: [] }]);
    expect(await store.remove("two")).toEqual({ names: ["two"], image: false });
    {
      await using image = store.use("one");
      expect(store.list()).toMatchObject([{ names: ["one"], users: [process.pid] }]);
      await expect(store.remove("one")).rejects.toMatchObject({
        code: "IMAGE_IN_USE",
        why: `by process ${process.pid}`,
      });
      expect(existsSync(image.rootfs)).toBe(true);
    }
    expect(await store.remove("one")).toEqual({ names: ["one"], image: true });
    expect(names()).toEqual(["refs"]);
  });

  test("a dead process holds nothing", async () => {
    await add("base");
    const holder = spawn("sleep", ["60"]);
    const held = store.use("base", holder.pid);
    await expect(store.remove("base")).rejects.toMatchObject({ code: "IMAGE_IN_USE" });
    holder.kill("SIGKILL");
    await new Promise((resolve) => holder.once("close", resolve));
    expect(await store.remove(DIGEST)).toEqual({ names: ["base"], image: true });
    await held[Symbol.asyncDispose]();
  });

  test("a damaged configuration is an error, not a default, and can be removed", async () => {
    await add("base");
    writeFileSync(join(state, "images", DIGEST.replace(":", "-"), "config.json"), "{");
    expect(() => store.resolve("base")).toThrow(expect.objectContaining({ code: "IMAGE_INVALID" }));
    expect(store.list()).toMatchObject([{ names: ["base"], config: null }]);
    expect(await store.remove("base")).toEqual({ names: ["base"], image: true });
  });
});
