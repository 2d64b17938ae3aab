import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { modulesInOrder, readModules, type ModuleFile } from "./modules.ts";

const read = async ({ path }: ModuleFile): Promise<Buffer> => readFileSync(path);
let tree: string;

function put(path: string, depends: string): void {
  const file = join(tree, "kernel", path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `\x7fELF\0license=GPL\0depends=${depends}\0name=x\0`);
}

const order = async (...wanted: readonly string[]): Promise<readonly string[]> =>
  (await modulesInOrder(tree, wanted, read)).map(({ name }) => name);

beforeEach(() => {
  tree = mkdtempSync(join(tmpdir(), "bulkhead-modules-"));
  writeFileSync(join(tree, "modules.builtin"), "kernel/fs/ext4/ext4.ko\nkernel/lib/crc-16.ko\n");
  put("drivers/virtio/virtio_ring.ko", "");
  put("drivers/virtio/virtio.ko", "virtio-ring");
  put("drivers/virtio/virtio_mmio.ko.xz", "virtio,virtio_ring");
  put("drivers/net/tun.ko", "");
});

describe("modulesInOrder", () => {
  test("puts each behind what it needs, once", async () => {
    expect(await order("tun", "virtio_mmio", "virtio")).toEqual(["tun", "virtio_ring", "virtio", "virtio_mmio"]);
  });

  test("leaves out what is built in", async () => {
    put("fs/a.ko", "crc_16,ext4");
    expect(await order("ext4", "a")).toEqual(["a"]);
  });

  test("names what is missing and who needs it", async () => {
    put("fs/a.ko", "gone");
    await expect(order("a")).rejects.toMatchObject({ message: expect.stringContaining("gone"), why: "a needs it" });
  });

  test("comes to an end in a circle", async () => {
    put("fs/a.ko", "b");
    put("fs/b.ko", "a");
    expect(await order("a")).toEqual(["b", "a"]);
  });

  test("refuses a module that does not say what it needs, or says what is no name", async () => {
    writeFileSync(join(tree, "kernel/mute.ko"), "ELF");
    await expect(order("mute")).rejects.toMatchObject({ code: "RUNTIME_FAILED" });
    put("fs/odd.ko", "../../etc/passwd");
    await expect(order("odd")).rejects.toMatchObject({ code: "RUNTIME_FAILED" });
  });
});

describe("readModules", () => {
  test("gives them in the order of the list", async () => {
    writeFileSync(join(tree, "b.ko"), "1");
    writeFileSync(join(tree, "a.ko"), "2");
    writeFileSync(join(tree, "load"), "b.ko\na.ko\n");
    expect((await readModules(tree)).map(({ name, data }) => `${name} ${data.toString()}`)).toEqual(["b 1", "a 2"]);
  });

  test("refuses a list that leads elsewhere", async () => {
    writeFileSync(join(tree, "load"), "../a.ko\n");
    await expect(readModules(tree)).rejects.toMatchObject({ code: "HOST_RESOURCE" });
  });
});
