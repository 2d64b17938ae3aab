import { parseSpec } from "@bulkhead/contract";
import { expect, test } from "vitest";
import { type Manifest, manifestText, parseManifest } from "./manifest.ts";

const manifest: Manifest = {
  version: 1,
  createdMs: 1,
  level: "microvm",
  driver: "microvm/qemu",
  spec: parseSpec({ memoryBytes: 256 * 1024 * 1024, env: { SECRET: "x" } }),
  binding: { kernel: "k" },
  files: { memory: { bytes: 5, digest: `sha256:${"a".repeat(64)}` } },
};

test("is read as it was written", () => {
  expect(parseManifest(manifestText(manifest), "/s")).toEqual(manifest);
});

test("no byte of it can change and none be missing", () => {
  const text = manifestText(manifest);
  for (let at = 0; at < text.length; at += 1) {
    const byte = text[at] === "0" ? "1" : "0";
    const changed = text.slice(0, at) + byte + text.slice(at + 1);
    if (/^\s$/.test(text[at] ?? "")) continue;
    expect(() => parseManifest(changed, "/s"), `byte ${at}`).toThrow(
      expect.objectContaining({ code: "SNAPSHOT_INVALID" }) as Error,
    );
    expect(() => parseManifest(text.slice(0, at), "/s"), `cut at ${at}`).toThrow(/damaged/);
  }
});

test("one with the right digest and the wrong shape is refused", () => {
  const wrong: readonly Partial<Record<keyof Manifest, unknown>>[] = [
    { level: "moon" },
    { driver: 7 },
    { createdMs: "now" },
    { binding: { kernel: 1 } },
    { binding: null },
    { files: { memory: { bytes: -0.5, digest: "sha256:no" } } },
    { files: [null] },
  ];
  for (const change of wrong) {
    const text = manifestText({ ...manifest, ...change } as Manifest);
    expect(() => parseManifest(text, "/s"), JSON.stringify(change)).toThrow(/damaged/);
  }
  const spec = manifestText({ ...manifest, spec: { memoryBytes: "much" } } as unknown as Manifest);
  expect(() => parseManifest(spec, "/s")).toThrow(expect.objectContaining({ code: "SPEC_INVALID" }) as Error);
  for (const text of ["", "null", "[]", "7", "{}"]) expect(() => parseManifest(text, "/s")).toThrow(/damaged/);
});
