import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";

const MANIFEST = "application/vnd.oci.image.manifest.v1+json";
const INDEX = "application/vnd.oci.image.index.v1+json";
const CONFIG = "application/vnd.oci.image.config.v1+json";
const LAYER = "application/vnd.oci.image.layer.v1.tar";
const GO_ARCH = process.arch === "x64" ? "amd64" : process.arch;
const MAX_TAR_BYTES = 512 * 1024 * 1024;

export type Compression = "gzip" | "zstd" | "none";
/** File contents by path; a path that ends with / is a directory. */
export type Files = Readonly<Record<string, string | Buffer>>;

export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

export interface Made {
  /** Of the manifest. */
  readonly digest: string;
  readonly manifest: Buffer;
  readonly layers: readonly Descriptor[];
}

export interface ImageSpec {
  /** Tar streams, lowest first. */
  readonly layers: readonly Buffer[];
  readonly compression?: Compression;
  /** The layers as they are in the layout already, where that is known. */
  readonly made?: readonly Descriptor[];
  readonly architecture?: string;
  /** The `config` object of the image's configuration. */
  readonly config?: Readonly<Record<string, unknown>>;
}

export function sha256(bytes: Buffer): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

/** A tar stream of a directory's content, owned by root, of the year 2001. */
export function tarOf(dir: string): Buffer {
  const fixed = ["--format=posix", "--sort=name", "--mtime=@1000000000", "--owner=0", "--group=0", "--numeric-owner"];
  return execFileSync("tar", ["--create", ...fixed, "--directory", dir, "."], { maxBuffer: MAX_TAR_BYTES });
}

export function tarOfFiles(files: Files): Buffer {
  const dir = mkdtempSync(join(tmpdir(), "bulkhead-layer-"));
  try {
    chmodSync(dir, 0o755);
    for (const [path, content] of Object.entries(files)) {
      const target = join(dir, path);
      mkdirSync(path.endsWith("/") ? target : dirname(target), { recursive: true, mode: 0o755 });
      if (!path.endsWith("/")) writeFileSync(target, content);
    }
    return tarOf(dir);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** An OCI layout on disk, made by hand so that every byte of it is ours to choose. */
export class Layout {
  readonly dir: string;
  readonly #entries: unknown[] = [];

  constructor(dir: string) {
    this.dir = dir;
    mkdirSync(join(dir, "blobs/sha256"), { recursive: true });
    writeFileSync(join(dir, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
  }

  blob(mediaType: string, bytes: Buffer): Descriptor {
    const digest = sha256(bytes);
    writeFileSync(join(this.dir, "blobs/sha256", digest.slice("sha256:".length)), bytes);
    return { mediaType, digest, size: bytes.length };
  }

  json(mediaType: string, value: unknown): Descriptor & { readonly bytes: Buffer } {
    const bytes = Buffer.from(JSON.stringify(value));
    return { ...this.blob(mediaType, bytes), bytes };
  }

  /** Puts an image in, without a name. */
  image({ layers, compression = "gzip", architecture = GO_ARCH, config = {}, ...given }: ImageSpec): Made {
    const made = given.made ?? layers.map((tar) => this.layer(tar, compression));
    const about = this.json(CONFIG, {
      ...{ architecture, os: "linux", config },
      rootfs: { type: "layers", diff_ids: layers.map(sha256) },
    });
    const { bytes, ...manifest } = this.json(MANIFEST, {
      ...{ schemaVersion: 2, mediaType: MANIFEST },
      config: { mediaType: about.mediaType, digest: about.digest, size: about.size },
      layers: made,
    });
    return { digest: manifest.digest, manifest: bytes, layers: made };
  }

  layer(tar: Buffer, compression: Compression): Descriptor {
    if (compression === "none") return this.blob(LAYER, tar);
    if (compression === "zstd") return this.blob(`${LAYER}+zstd`, zstdCompressSync(tar));
    return this.blob(`${LAYER}+gzip`, gzipSync(tar));
  }

  /** Gives an image a name in the layout. */
  tag(name: string, made: Made): void {
    this.#add(name, { mediaType: MANIFEST, digest: made.digest, size: made.manifest.length });
  }

  /** Several images under one name, by platform. */
  index(name: string, images: Readonly<Record<string, Made>>): void {
    const manifests = Object.entries(images).map(([platform, { digest, manifest }]) => {
      const [os, architecture] = platform.split("/");
      return { mediaType: MANIFEST, digest, size: manifest.length, platform: { os, architecture } };
    });
    const { bytes: _, ...entry } = this.json(INDEX, { schemaVersion: 2, mediaType: INDEX, manifests });
    this.#add(name, entry);
  }

  #add(name: string, descriptor: Descriptor): void {
    this.#entries.push({ ...descriptor, annotations: { "org.opencontainers.image.ref.name": name } });
    writeFileSync(join(this.dir, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: this.#entries }));
  }
}
