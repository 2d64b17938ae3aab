import { expect, test } from "vitest";
import { scratchSize } from "./scratch.ts";

const MIB = 2 ** 20;

test("a disk is never larger, nor holds more files, than was asked for", () => {
  expect(scratchSize(64 * MIB + 5, 200)).toEqual({ bytes: 64 * MIB, inodes: 192 });
  // Eight groups of blocks, each with whole blocks of inodes.
  expect(scratchSize(1024 * MIB, 131_072)).toEqual({ bytes: 1024 * MIB, inodes: 131_072 });
  expect(scratchSize(1024 * MIB, 200)).toEqual({ bytes: 1024 * MIB, inodes: 128 });
  expect(scratchSize(MIB, 4096).inodes).toBe(128);
});

test("fewer files than a disk has in any case are refused, with how many it has", () => {
  expect(() => scratchSize(1024 * MIB, 127)).toThrow(/cannot be held to 127 files/);
});
