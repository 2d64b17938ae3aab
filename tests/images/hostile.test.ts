import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { pullImage } from "@bulkhead/engine/images";
import { Layout, tarOfFiles, type Made } from "./support/layout.ts";
import { ownRegistry, type Answer } from "./support/own-registry.ts";
import { lackingRegistry } from "./support/registry.ts";
import { contents, pullingInto, scratch } from "./support/scene.ts";

const TIMEOUT_MS = 300_000;
/** Only where it is to be reached. */
const STALL_MS = 6000;
const LAYER_BYTES = 300_000;
const MANIFEST = "application/vnd.oci.image.manifest.v1+json";
const INDEX = "application/vnd.oci.image.index.v1+json";
const missing = lackingRegistry().filter((name) => !name.includes("docker-registry"));
const lack = missing.length > 0 ? `: NOT TESTED, this machine lacks ${missing.join(", ")}` : "";

const isBlob = (url: string | undefined): boolean => url?.includes("/blobs/") === true;
const isManifest = (url: string | undefined): boolean => url?.includes("/manifests/") === true;

interface Lie {
  readonly code: string;
  readonly kind?: string;
  readonly answer: (made: Made) => Answer;
}

/** What a registry can do to those who pull from it, and what they are told. */
const LIES: Readonly<Record<string, Lie>> = {
  "says nothing at all": {
    ...{ code: "TIMEOUT", kind: "stall" },
    answer: () => () => true,
  },
  "stops in the middle of a layer": {
    ...{ code: "TIMEOUT", kind: "stall" },
    answer: (made) => (request, response) => {
      if (!request.url?.endsWith(made.layers[0]!.digest)) return false;
      response.writeHead(200, { "content-length": made.layers[0]!.size });
      response.write(Buffer.alloc(1000));
      return true;
    },
  },
  "sends another layer than was announced": {
    ...{ code: "IMAGE_REFUSED", kind: "wrong-digest" },
    answer: (made) => (request, response) => {
      if (!request.url?.endsWith(made.layers[0]!.digest)) return false;
      response.end(randomBytes(made.layers[0]!.size));
      return true;
    },
  },
  "sends a layer that never ends": {
    code: "IMAGE_REFUSED",
    answer: (made) => (request, response) => {
      if (!request.url?.endsWith(made.layers[0]!.digest)) return false;
      response.writeHead(200);
      const chunk = randomBytes(1024 * 1024);
      const more = (): void => {
        while (!response.destroyed && response.write(chunk));
      };
      response.on("drain", more).on("error", () => {});
      more();
      return true;
    },
  },
  "sends a layer that ends early": {
    code: "IMAGE_",
    answer: (made) => (request, response) => {
      if (!request.url?.endsWith(made.layers[0]!.digest)) return false;
      response.writeHead(200, { "content-length": made.layers[0]!.size });
      response.write(Buffer.alloc(100));
      setTimeout(() => response.destroy(), 100);
      return true;
    },
  },
  "sends a manifest without end": {
    ...{ code: "IMAGE_REFUSED", kind: "too-large" },
    answer: () => (request, response) => {
      if (!isManifest(request.url)) return false;
      response.writeHead(200, { "content-type": MANIFEST });
      response.end(Buffer.alloc(16 * 1024 * 1024, "["));
      return true;
    },
  },
  "redirects in a circle": {
    code: "IMAGE_PULL_FAILED",
    answer: () => (request, response) => {
      if (!isBlob(request.url) && !isManifest(request.url)) return false;
      response.writeHead(307, { location: request.url }).end();
      return true;
    },
  },
  "redirects to a file of this machine": {
    code: "IMAGE_PULL_FAILED",
    answer: () => (request, response) => {
      if (!isBlob(request.url)) return false;
      response.writeHead(307, { location: "file:///etc/shadow" }).end();
      return true;
    },
  },
  "wants credentials that nobody has": {
    code: "IMAGE_DENIED",
    answer: () => (_request, response) => {
      response.writeHead(401, { "www-authenticate": 'Basic realm="x"' }).end();
      return true;
    },
  },
  fails: {
    code: "IMAGE_PULL_FAILED",
    answer: () => (request, response) => {
      if (!isManifest(request.url)) return false;
      response.writeHead(500).end("\u001b[31mred\u0007");
      return true;
    },
  },
};

// Without skopeo nothing is pulled.
describe.skipIf(missing.length > 0)(`a registry that${lack}`, { timeout: TIMEOUT_MS }, () => {
  for (const [what, { code, kind, answer }] of Object.entries(LIES)) {
    test.concurrent(what, async ({ expect: own, onTestFinished: finished }) => {
      const dir = scratch(finished);
      const layout = new Layout(join(dir, "layout"));
      const made = layout.image({ layers: [tarOfFiles({ data: randomBytes(LAYER_BYTES) })] });
      await using registry = await ownRegistry(layout.dir, made, answer(made));
      const base = pullingInto(join(dir, "state"), { HOME: dir });
      const pulling = { ...base, limits: { ...base.limits, stallMs: STALL_MS } };
      const failure: unknown = await pullImage(`${registry.host}/hostile:latest`, pulling).catch(
        (error: unknown) => error,
      );
      own(failure).toMatchObject({
        code: expect.stringMatching(new RegExp(`^${code}`)),
        ...(kind !== undefined && { details: { kind } }),
      });
      own((failure as Error).message).toMatch(/^[\x20-\x7e]+$/);
      own(contents(join(dir, "state"))).toMatchObject({ images: [], layers: [], unfinished: [] });
      // Nothing of what was wrong is kept either, to be taken for right by the next pull.
      await using repaired = await ownRegistry(layout.dir, made);
      own((await pullImage(`${repaired.host}/hostile:latest`, pulling)).digest).toBe(made.digest);
    });
  }

  test("redirects to where the layers really are is followed", async () => {
    const dir = scratch();
    const layout = new Layout(join(dir, "layout"));
    const made = layout.image({ layers: [tarOfFiles({ data: "x" })] });
    await using elsewhere = await ownRegistry(layout.dir, made);
    await using registry = await ownRegistry(layout.dir, made, (request, response) => {
      if (!isBlob(request.url)) return false;
      response.writeHead(307, { location: `http://${elsewhere.host}${request.url}` }).end();
      return true;
    });
    const image = await pullImage(`${registry.host}/x`, pullingInto(join(dir, "state"), { HOME: dir }));
    expect(image.digest).toBe(made.digest);
    expect(elsewhere.requests.some(isBlob)).toBe(true);
  });

  test.each([-1, 1])("announces a layer with another size than it has: by %d", async (by) => {
    const dir = scratch();
    const layout = new Layout(join(dir, "layout"));
    const honest = layout.image({ layers: [tarOfFiles({ data: randomBytes(LAYER_BYTES) })] });
    const manifest = JSON.parse(honest.manifest.toString()) as { layers: { size: number }[] };
    manifest.layers[0]!.size += by;
    const made = layout.json(MANIFEST, manifest);
    const lying = { digest: made.digest, manifest: made.bytes, layers: honest.layers };
    await using registry = await ownRegistry(layout.dir, lying);
    const pulling = pullingInto(join(dir, "state"), { HOME: dir });
    await expect(pullImage(`${registry.host}/x`, pulling)).rejects.toMatchObject({
      code: "IMAGE_REFUSED",
      details: { kind: "wrong-size" },
    });
    expect(contents(join(dir, "state"))).toMatchObject({ images: [], layers: [], unfinished: [] });
  });

  test.each([
    ["says so", INDEX],
    ["calls it an image", MANIFEST],
  ])("has an index within an index, and %s", async (_, mediaType) => {
    const dir = scratch();
    const layout = new Layout(join(dir, "layout"));
    const image = layout.image({ layers: [tarOfFiles({ data: "x" })] });
    const platform = { os: "linux", architecture: process.arch === "x64" ? "amd64" : process.arch };
    const entry = (type: string, { digest, size }: { readonly digest: string; readonly size: number }) => ({
      ...{ schemaVersion: 2, mediaType: INDEX },
      manifests: [{ mediaType: type, digest, size, platform }],
    });
    const inner = layout.json(INDEX, entry(MANIFEST, { digest: image.digest, size: image.manifest.length }));
    const outer = layout.json(INDEX, entry(mediaType, inner));
    const lying = { digest: outer.digest, manifest: outer.bytes, layers: image.layers };
    await using registry = await ownRegistry(layout.dir, lying);
    const pulling = pullingInto(join(dir, "state"), { HOME: dir });
    await expect(pullImage(`${registry.host}/x`, pulling)).rejects.toMatchObject({
      code: "IMAGE_REFUSED",
      details: { kind: "nested-index" },
    });
    expect(registry.requests.some(isBlob)).toBe(false);
    expect(contents(join(dir, "state"))).toEqual({ images: [], layers: [], blobs: [], unfinished: [] });
  });

  test("names a layer's content wrongly", async () => {
    const dir = scratch();
    const layout = new Layout(join(dir, "layout"));
    const { layers, manifest } = layout.image({ layers: [tarOfFiles({ data: "x" })] });
    const { config } = JSON.parse(manifest.toString()) as { config: { mediaType: string } };
    const about = layout.json(config.mediaType, {
      ...{ os: "linux", architecture: process.arch === "x64" ? "amd64" : process.arch },
      rootfs: { type: "layers", diff_ids: [`sha256:${"0".repeat(64)}`] },
    });
    const { bytes: _, ...described } = about;
    const made = layout.json(MANIFEST, {
      ...{ schemaVersion: 2, mediaType: MANIFEST },
      ...{ config: described, layers },
    });
    const lying = { digest: made.digest, manifest: made.bytes, layers };
    await using registry = await ownRegistry(layout.dir, lying);
    const pulling = pullingInto(join(dir, "state"), { HOME: dir });
    await expect(pullImage(`${registry.host}/x`, pulling)).rejects.toMatchObject({
      code: "IMAGE_REFUSED",
      details: { kind: "wrong-diff-id" },
    });
    expect(contents(join(dir, "state"))).toMatchObject({ images: [], layers: [], unfinished: [] });
  });
});
