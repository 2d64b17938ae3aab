import { BulkheadError } from "@bulkhead/contract";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { DEFAULT_LIMITS } from "./limits.ts";
import { choosePlatform, goArchitecture, parseDocument, parseOciConfig, type IndexEntry } from "./manifest.ts";

const DIGEST = `sha256:${"a".repeat(64)}`;
const MANIFEST = "application/vnd.oci.image.manifest.v1+json";
const CONFIG = { mediaType: "application/vnd.oci.image.config.v1+json", digest: DIGEST, size: 10 };
const LAYER = { mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", digest: DIGEST, size: 10 };
const good = { schemaVersion: 2, mediaType: MANIFEST, config: CONFIG, layers: [LAYER] };

const bytes = (value: unknown): Buffer => Buffer.from(typeof value === "string" ? value : JSON.stringify(value));
const parse = (value: unknown) => parseDocument("x", bytes(value), DEFAULT_LIMITS);
const kindOf = (act: () => unknown): unknown => {
  try {
    act();
  } catch (error) {
    if (error instanceof BulkheadError && error.code === "IMAGE_REFUSED") return error.details["kind"];
    throw error;
  }
  return "accepted";
};

describe("parseDocument", () => {
  test("an image, of either dialect, with a type or without", () => {
    const image = { kind: "image", config: { digest: DIGEST, size: 10 }, layers: [{ digest: DIGEST, size: 10 }] };
    expect(parse(good)).toEqual(image);
    expect(parse({ ...good, mediaType: undefined })).toEqual(image);
    const docker = {
      ...{ schemaVersion: 2, mediaType: "application/vnd.docker.distribution.manifest.v2+json" },
      config: { ...CONFIG, mediaType: "application/vnd.docker.container.image.v1+json" },
      layers: [{ ...LAYER, mediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip" }],
    };
    expect(parse(docker)).toEqual(image);
  });

  test.each([
    ["no JSON", "{", "bad-document"],
    ["no object", "[]", "bad-document"],
    ["deeper than any reader goes", "[".repeat(1_000_000), "bad-document"],
    ["bytes that are no text", Buffer.from([0x7b, 0xff, 0x7d]).toString("latin1"), "bad-document"],
    ["larger than allowed", `"${"x".repeat(DEFAULT_LIMITS.documentBytes)}"`, "too-large"],
    ["an image and an index at once", { ...good, manifests: [] }, "ambiguous"],
    ["the old form", { schemaVersion: 1, fsLayers: [] }, "schema-1"],
    ["of a foreign type", { ...good, mediaType: "text/html" }, "bad-document"],
    [
      "a chart and no image",
      { ...good, config: { ...CONFIG, mediaType: "application/vnd.cncf.helm.config" } },
      "bad-document",
    ],
    ["without layers", { ...good, layers: [] }, "bad-document"],
    ["layers that are a text", { ...good, layers: "x" }, "bad-document"],
    [
      "layers that are elsewhere",
      { ...good, layers: [{ ...LAYER, mediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" }] },
      "layer-type",
    ],
    [
      "layers that are encrypted",
      { ...good, layers: [{ ...LAYER, mediaType: `${LAYER.mediaType}+encrypted` }] },
      "layer-type",
    ],
    [
      "too many layers",
      { ...good, layers: Array.from({ length: DEFAULT_LIMITS.layers + 1 }, () => LAYER) },
      "too-many-layers",
    ],
    ["a digest that is a path", { ...good, layers: [{ ...LAYER, digest: "sha256:../../etc/passwd" }] }, "bad-document"],
    ["a weak digest", { ...good, config: { ...CONFIG, digest: `md5:${"a".repeat(32)}` } }, "bad-document"],
    ["a size below nothing", { ...good, layers: [{ ...LAYER, size: -1 }] }, "bad-document"],
    ["a size that is no number", { ...good, layers: [{ ...LAYER, size: "10" }] }, "bad-document"],
    ["a size beyond all numbers", { ...good, layers: [{ ...LAYER, size: 1e300 }] }, "bad-document"],
    [
      "layers larger than allowed together",
      { ...good, layers: [1, 2].map(() => ({ ...LAYER, size: DEFAULT_LIMITS.downloadBytes * 0.6 })) },
      "bad-document",
    ],
    [
      "a layer larger than allowed",
      { ...good, layers: [{ ...LAYER, size: DEFAULT_LIMITS.downloadBytes + 1 }] },
      "too-large",
    ],
    [
      "a configuration larger than allowed",
      { ...good, config: { ...CONFIG, size: DEFAULT_LIMITS.documentBytes + 1 } },
      "too-large",
    ],
    ["an index without a list", { schemaVersion: 2, manifests: {} }, "bad-document"],
    [
      "an index with too many entries",
      {
        schemaVersion: 2,
        manifests: Array.from({ length: DEFAULT_LIMITS.indexEntries + 1 }, () => ({ digest: DIGEST, size: 1 })),
      },
      "too-many-entries",
    ],
  ])("refused: %s", (_what, value, kind) => {
    expect(kindOf(() => parse(value))).toBe(kind);
  });

  test("whatever comes is an image, an index or refused by type", () => {
    const document = fc.oneof(
      fc.json({ maxDepth: 4 }),
      fc.object({ maxDepth: 4 }).map((value) => JSON.stringify({ ...good, ...value })),
    );
    fc.assert(
      fc.property(document, (text) => {
        expect(() => kindOf(() => parse(text))).not.toThrow();
      }),
      { numRuns: 1000 },
    );
  });
});

describe("choosePlatform", () => {
  const entry = (platform: string, isIndex = false): IndexEntry => ({
    digest: DIGEST,
    size: platform.length,
    platform,
    isIndex,
  });

  test("takes this machine's, the plain one first", () => {
    const entries = ["linux/arm64/v8", "linux/amd64/v3", "linux/amd64", "windows/amd64", "unknown/unknown"].map((one) =>
      entry(one),
    );
    expect(choosePlatform("x", entries, "amd64").platform).toBe("linux/amd64");
    expect(choosePlatform("x", entries, "arm64").platform).toBe("linux/arm64/v8");
  });

  test("says for which machines it is there, in what a terminal can show, and follows no index to another", () => {
    expect(() => choosePlatform("x", [entry("linux/s390x\u001b[31m"), entry("")], "amd64")).toThrow(
      expect.objectContaining({ code: "IMAGE_NOT_FOUND", why: "it is there for: linux/s390x?[31m, unknown" }),
    );
    expect(kindOf(() => choosePlatform("x", [entry("linux/amd64", true)], "amd64"))).toBe("nested-index");
  });
});

describe("parseOciConfig", () => {
  const config = (value: Readonly<Record<string, unknown>>, layers = 1) =>
    parseOciConfig(
      "x",
      bytes({ os: "linux", architecture: goArchitecture(), rootfs: { diff_ids: [DIGEST] }, ...value }),
      layers,
      DEFAULT_LIMITS,
    );

  test("what is not said is empty, what is said is kept", () => {
    expect(config({})).toMatchObject({ diffIds: [DIGEST], env: {}, user: "", cmd: [], stopSignal: null, labels: {} });
    const said = {
      Env: ["A=1", "A=2", "=x", "B", "C=a=b"],
      WorkingDir: "srv",
      Volumes: { "/data": {}, relative: {} },
      Cmd: null,
    };
    expect(config({ config: said })).toMatchObject({
      env: { A: "2", C: "a=b" },
      workdir: "/srv",
      volumes: ["/data"],
      cmd: [],
    });
  });

  test("another machine's is not there; other numbers of layers, other types and zero bytes are refused", () => {
    expect(() => config({ architecture: "vax" })).toThrow(expect.objectContaining({ code: "IMAGE_NOT_FOUND" }));
    expect(() => config({ os: "windows" })).toThrow(expect.objectContaining({ code: "IMAGE_NOT_FOUND" }));
    for (const value of [
      { rootfs: {} },
      { rootfs: { diff_ids: ["x"] } },
      { config: { Env: "A=1" } },
      { config: { User: 1 } },
    ]) {
      expect(kindOf(() => config(value))).toBe("bad-document");
    }
    for (const value of [{ Cmd: ["a\0b"] }, { Labels: { a: 1 } }, { Volumes: ["/x"] }, { WorkingDir: "/\0" }]) {
      expect(kindOf(() => config({ config: value }))).toBe("bad-document");
    }
    expect(kindOf(() => config({}, 2))).toBe("bad-document");
  });
});
