import { gzipSync, zstdCompressSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { extractVmlinux } from "./bzimage.ts";

const noXz = (): Promise<Buffer> => Promise.reject(new RangeError("no xz here"));

function numbers(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, index) => bytes.writeUInt32LE(value, 4 * index));
  return bytes;
}

/** An ELF file with nothing but the notes given. */
function elf(type: number, name: string): Buffer {
  const note = Buffer.concat([
    numbers(4, 4, 6),
    Buffer.from("Xen\0"),
    numbers(1),
    numbers(4, 4, type),
    Buffer.from(name),
    numbers(1),
  ]);
  const head = Buffer.alloc(64 + 56);
  Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]).copy(head);
  head.writeUInt16LE(62, 18);
  head.writeBigUInt64LE(64n, 32);
  head.writeUInt16LE(56, 54);
  head.writeUInt16LE(1, 56);
  head.writeUInt32LE(4, 64);
  head.writeBigUInt64LE(BigInt(head.length), 64 + 8);
  head.writeBigUInt64LE(BigInt(note.length), 64 + 32);
  return Buffer.concat([head, note]);
}

function bzImage(payload: Buffer, claimed = payload.length): Buffer {
  const image = Buffer.alloc(1024 + 100);
  image.writeUInt8(1, 0x1f1);
  image.write("HdrS", 0x202);
  image.writeUInt16LE(0x20f, 0x206);
  image.writeUInt32LE(100, 0x248);
  image.writeUInt32LE(claimed, 0x24c);
  return Buffer.concat([image, payload, Buffer.from("what follows")]);
}

const kernel = elf(18, "Xen\0");
const sized = (packed: Buffer, size = kernel.length): Buffer => Buffer.concat([packed, numbers(size)]);

describe("extractVmlinux", () => {
  test.each([
    ["gzip", gzipSync(kernel)],
    ["zstd", sized(zstdCompressSync(kernel))],
  ])("takes the kernel out of a payload packed by %s", async (_, payload) => {
    expect(await extractVmlinux(bzImage(payload), noXz)).toEqual(kernel);
  });

  test("hands xz to its unpacker without the size behind it", async () => {
    const packed = Buffer.from("fd377a585a00aabb", "hex");
    const seen: Buffer[] = [];
    const unpackXz = async (data: Buffer): Promise<Buffer> => (seen.push(data), kernel);
    expect(await extractVmlinux(bzImage(sized(packed)), unpackXz)).toEqual(kernel);
    expect(seen).toEqual([packed]);
  });

  test.each([
    ["what is no image", Buffer.alloc(4096), "no bzImage"],
    ["what is too short", Buffer.from("HdrS"), "no bzImage"],
    ["a payload outside of the image", bzImage(gzipSync(kernel), 1 << 20), "outside"],
    ["a payload that is packed in an unknown way", bzImage(Buffer.alloc(64)), "unknown way"],
    ["another size than announced", bzImage(sized(zstdCompressSync(kernel), kernel.length + 1)), "announced"],
    ["more than announced", bzImage(sized(zstdCompressSync(Buffer.alloc(1 << 20)), 100)), ""],
    ["a size that no kernel has", bzImage(sized(zstdCompressSync(kernel), 0xffffffff)), "4294967295"],
    ["a kernel that does not start by PVH", bzImage(gzipSync(elf(17, "Xen\0"))), "PVH"],
    ["a note of somebody else", bzImage(gzipSync(elf(18, "Yen\0"))), "PVH"],
    ["what is no ELF file", bzImage(gzipSync("#!/bin/sh, and some more text")), "PVH"],
  ])("refuses %s", async (_, image, why) => {
    await expect(extractVmlinux(image, noXz)).rejects.toMatchObject({
      code: "RUNTIME_FAILED",
      why: expect.stringContaining(why) as string,
    });
  });
});
