import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { collectGarbage, prepareImage, pullImage, verifyImages, type Pulling } from "@bulkhead/engine/images";
import { Layout, tarOfFiles } from "./support/layout.ts";
import { lackingRegistry } from "./support/registry.ts";
import { contents, pullingInto, scratch } from "./support/scene.ts";

const TIMEOUT_MS = 300_000;
const MIB = 1024 * 1024;
const missing = lackingRegistry().filter((name) => !name.includes("docker-registry"));
const lack = missing.length > 0 ? `: NOT TESTED, this machine lacks ${missing.join(", ")}` : "";

/** One bit of the file is another, and nothing else of it is: neither its size nor its times. */
function flip(path: string, at: number): void {
  const { atime, mtime } = statSync(path);
  const fd = openSync(path, "r+");
  const byte = Buffer.alloc(1);
  readSync(fd, byte, 0, 1, at);
  writeSync(fd, Buffer.from([byte[0]! ^ 1]), 0, 1, at);
  closeSync(fd);
  utimesSync(path, atime, mtime);
}

// Without skopeo nothing is pulled.
describe.skipIf(missing.length > 0)(`what is in the store${lack}`, { timeout: TIMEOUT_MS }, () => {
  let dir: string;
  let pulling: Pulling;
  let layout: Layout;

  beforeEach(() => {
    dir = scratch();
    layout = new Layout(join(dir, "layout"));
    pulling = pullingInto(join(dir, "state"), { HOME: dir });
  });

  /** Three images on one layer, each with one of its own; used in this order, the first the longest ago. */
  async function three(): Promise<readonly { readonly reference: string; readonly digest: string }[]> {
    const below = tarOfFiles({ shared: randomBytes(MIB) });
    const images = [];
    for (const [i, name] of ["old", "middle", "new"].entries()) {
      layout.tag(name, layout.image({ layers: [below, tarOfFiles({ [name]: randomBytes(MIB) })] }));
      const reference = `oci:${layout.dir}:${name}`;
      const { digest } = await pullImage(reference, pulling);
      const used = new Date(Date.UTC(2020, 0, 1 + i));
      utimesSync(join(pulling.store.dir, digest.replace(":", "-")), used, used);
      images.push({ reference, digest });
    }
    return images;
  }

  test("a clean-up takes what no image is made of, and with a budget the image that was not used for longest", async () => {
    const [old, middle] = await three();
    const full = await collectGarbage(pulling.store);
    expect(full).toMatchObject({ images: [], layers: 0, blobs: 0 });
    expect(full.afterBytes).toBe(full.beforeBytes);

    // Both forms of the shared layer and of two of the others: 6 MiB and some directories.
    const report = await collectGarbage(pulling.store, { keepBytes: 7 * MIB });
    expect(report).toMatchObject({ images: [old!.reference], layers: 1, blobs: 3 });
    expect(report.afterBytes).toBeLessThanOrEqual(7 * MIB);
    expect(report.beforeBytes - report.afterBytes).toBeGreaterThanOrEqual(2 * MIB);
    expect(pulling.store.find(old!.reference)).toBeNull();
    expect((await verifyImages([], pulling)).flatMap(({ problems }) => problems)).toEqual([]);

    await pulling.store.remove(middle!.reference);
    expect(await collectGarbage(pulling.store)).toMatchObject({ images: [], layers: 1, blobs: 3 });
    expect(contents(join(dir, "state")).layers).toHaveLength(2);
  });

  test("never what is in use, whatever the budget", async () => {
    const [old, middle] = await three();
    {
      await using _used = pulling.store.use(old!.reference);
      const report = await collectGarbage(pulling.store, { keepBytes: 0 });
      expect(report.images).toHaveLength(2);
      expect(pulling.store.find(old!.reference)).not.toBeNull();
      expect(pulling.store.find(middle!.reference)).toBeNull();
      expect((await verifyImages([old!.reference], pulling))[0]?.problems).toEqual([]);
    }
    const kept = join(dir, "state/kept/work");
    mkdirSync(kept, { recursive: true });
    writeFileSync(join(kept, "layer.ext4"), "");
    const record = { version: 1, writer: "host", image: old!.digest, reference: "x", bytes: 1, inodes: 1 };
    writeFileSync(join(kept, "layer.json"), JSON.stringify(record));
    expect((await collectGarbage(pulling.store, { keepBytes: 0 })).images).toEqual([]);
    rmSync(kept, { recursive: true });
    mkdirSync(join(dir, "tree"));
    const { digest } = await pullImage(`rootfs:${dir}/tree`, pulling);
    await collectGarbage(pulling.store, { keepBytes: 0 });
    const left = { images: [digest.replace(":", "-")], layers: [], blobs: [], unfinished: [] };
    expect(contents(join(dir, "state"))).toEqual(left);
  });

  test("a flipped bit is found, wherever it is, and named", async () => {
    layout.tag("one", layout.image({ layers: [tarOfFiles({ "etc/file": "a text of some length\n" })] }));
    const reference = `oci:${layout.dir}:one`;
    const image = await pullImage(reference, pulling);
    const [layer] = image.config.origin?.layers ?? [];
    const problems = async (): Promise<readonly string[]> =>
      (await verifyImages([reference], pulling)).flatMap((verdict) => verdict.problems);
    expect(await problems()).toEqual([]);

    const tree = join(image.rootfs, "etc/file");
    flip(tree, 3);
    expect(await problems()).toEqual([expect.stringContaining("unpacked files")]);
    flip(tree, 3);
    expect(await problems()).toEqual([]);

    const blob = join(pulling.store.dir, "blobs/sha256", (layer?.blob ?? "").slice("sha256:".length));
    flip(blob, 20);
    expect(await problems()).toEqual([`${layer?.blob} is damaged`]);
    flip(blob, 20);

    if (existsSync("/usr/bin/mkfs.erofs")) {
      const { path } = await prepareImage(pulling.store, reference);
      expect(await problems()).toEqual([]);
      flip(path, 2000);
      expect(await problems()).toEqual([expect.stringContaining("microVMs")]);
    }
  });

  test("a damaged blob is not used: it is named, removed, and fetched again by the next pull", async () => {
    layout.tag("one", layout.image({ layers: [tarOfFiles({ a: "a" })] }));
    const reference = `oci:${layout.dir}:one`;
    const { digest, config } = await pullImage(reference, pulling);
    const blob = join(
      pulling.store.dir,
      "blobs/sha256",
      (config.origin?.layers[0]?.blob ?? "").slice("sha256:".length),
    );
    await pulling.store.remove(digest);
    const { layers } = contents(join(dir, "state"));
    await import("node:fs/promises").then(({ rm }) =>
      rm(join(pulling.store.dir, "layers", layers[0]!), { recursive: true }),
    );
    flip(blob, 15);
    await expect(pullImage(reference, pulling)).rejects.toMatchObject({ code: "IMAGE_INVALID" });
    expect(existsSync(blob)).toBe(false);
    expect((await pullImage(reference, pulling)).digest).toBe(digest);
  });
});
