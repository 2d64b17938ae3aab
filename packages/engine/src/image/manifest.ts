import { createHash } from "node:crypto";
import { BulkheadError } from "@bulkhead/contract";
import type { ImageLimits } from "./limits.ts";
import type { ImageConfig } from "./store.ts";

const DIGEST = /^sha256:[0-9a-f]{64}$/;
const INDEX_TYPES = [
  "application/vnd.oci.image.index.v1+json",
  "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFEST_TYPES = [
  "application/vnd.oci.image.manifest.v1+json",
  "application/vnd.docker.distribution.manifest.v2+json",
];
const CONFIG_TYPES = ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const LAYER_TYPES = [
  "application/vnd.oci.image.layer.v1.tar",
  "application/vnd.oci.image.layer.v1.tar+gzip",
  "application/vnd.oci.image.layer.v1.tar+zstd",
  "application/vnd.docker.image.rootfs.diff.tar",
  "application/vnd.docker.image.rootfs.diff.tar.gzip",
  "application/vnd.docker.image.rootfs.diff.tar.zstd",
];
/** Shown of what a registry sent. */
const MAX_SHOWN_CHARACTERS = 80;
const MAX_SHOWN_PLATFORMS = 12;

/** Go's name of a machine, which images use, by Node's. */
const GO_ARCHITECTURES: Readonly<Record<string, string>> = { x64: "amd64", arm64: "arm64", ia32: "386" };

export interface Descriptor {
  /** `sha256:` and 64 hex digits. */
  readonly digest: string;
  readonly size: number;
}

export interface IndexEntry extends Descriptor {
  readonly isIndex: boolean;
  /** `linux/amd64`, `linux/arm/v7`; empty where the index does not say. */
  readonly platform: string;
}

export type Document =
  | { readonly kind: "index"; readonly entries: readonly IndexEntry[] }
  | { readonly kind: "image"; readonly config: Descriptor; readonly layers: readonly Descriptor[] };

/** What an image's own configuration says, checked and in this project's words. */
export interface OciConfig extends Omit<
  ImageConfig,
  "version" | "architecture" | "description" | "sizeBytes" | "fileCount" | "origin"
> {
  /** Digests of the unpacked layers' tar streams, lowest first. */
  readonly diffIds: readonly string[];
}

export function sha256(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

/** As images name this machine: `amd64`. */
export function goArchitecture(arch: string = process.arch): string {
  return GO_ARCHITECTURES[arch] ?? arch;
}

function refuse(
  name: string,
  kind: string,
  what: string,
  details: Readonly<Record<string, unknown>> = {},
): BulkheadError {
  return new BulkheadError("IMAGE_REFUSED", { what: `${name}: ${what}`, details: { kind, ...details } });
}

/** Text of a registry's, for people: without what a terminal would act on. */
function shown(value: unknown): string {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? "nothing");
  return text.replace(/[^\x20-\x7e]/g, "?").slice(0, MAX_SHOWN_CHARACTERS);
}

function parseJson(name: string, what: string, bytes: Uint8Array, limits: ImageLimits): Record<string, unknown> {
  if (bytes.length > limits.documentBytes) {
    throw refuse(name, "too-large", `its ${what} has more than ${limits.documentBytes} bytes`, {
      limit: limits.documentBytes,
    });
  }
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw refuse(name, "bad-document", `its ${what} is no JSON`);
  }
  if (!isRecord(value)) throw refuse(name, "bad-document", `its ${what} is no JSON object`);
  return value;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function descriptor(name: string, what: string, value: unknown): Descriptor {
  const { digest, size } = isRecord(value) ? value : {};
  if (typeof digest !== "string" || !DIGEST.test(digest)) {
    throw refuse(name, "bad-document", `${what} has no sha256 digest but ${shown(digest)}`);
  }
  if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0) {
    throw refuse(name, "bad-document", `${what} has no size but ${shown(size)}`);
  }
  return { digest, size };
}

/**
 * Reads a manifest or an index as a registry sends it.
 *
 * @param name of the image, for messages
 * @throws BulkheadError IMAGE_REFUSED: no image, beyond a bound, or with layers that are elsewhere or encrypted
 */
export function parseDocument(name: string, bytes: Uint8Array, limits: ImageLimits): Document {
  const value = parseJson(name, "manifest", bytes, limits);
  const { mediaType, manifests, layers, schemaVersion } = value;
  // One text that is an image for one reader and an index for another lets two readers run different programs.
  if (manifests !== undefined && (layers !== undefined || value["config"] !== undefined)) {
    throw refuse(name, "ambiguous", "its manifest is an image and an index at once");
  }
  if (schemaVersion === 1) {
    throw new BulkheadError("IMAGE_REFUSED", {
      what: `${name}: its manifest has the old form, schema 1`,
      why: "that form says neither sizes nor what the layers are when unpacked, so neither can be checked",
      next: "push the image again with a tool of this decade",
      details: { kind: "schema-1" },
    });
  }
  const types = manifests === undefined ? MANIFEST_TYPES : INDEX_TYPES;
  if (mediaType !== undefined && !(typeof mediaType === "string" && types.includes(mediaType))) {
    throw refuse(name, "bad-document", `its manifest is of type ${shown(mediaType)}, which is no image`);
  }
  return manifests === undefined ? parseImage(name, value, limits) : parseIndex(name, manifests, limits);
}

function parseIndex(name: string, manifests: unknown, limits: ImageLimits): Document {
  if (!Array.isArray(manifests)) throw refuse(name, "bad-document", "its index has no list of manifests");
  if (manifests.length > limits.indexEntries) {
    throw refuse(
      name,
      "too-many-entries",
      `its index has ${manifests.length} entries, at most ${limits.indexEntries}`,
      {
        limit: limits.indexEntries,
      },
    );
  }
  const entries = manifests.map((entry: unknown, i): IndexEntry => {
    const { mediaType, platform } = isRecord(entry) ? entry : {};
    const { os, architecture, variant } = isRecord(platform) ? platform : {};
    const parts = [os, architecture, variant].filter((part) => typeof part === "string" && part !== "");
    return {
      ...descriptor(name, `entry ${i} of its index`, entry),
      isIndex: typeof mediaType === "string" && INDEX_TYPES.includes(mediaType),
      platform: parts.join("/"),
    };
  });
  return { kind: "index", entries };
}

function parseImage(name: string, value: Record<string, unknown>, limits: ImageLimits): Document {
  const { config, layers } = value;
  const configType = isRecord(config) ? config["mediaType"] : undefined;
  if (typeof configType !== "string" || !CONFIG_TYPES.includes(configType)) {
    throw refuse(name, "bad-document", `it is no container image: its configuration is of type ${shown(configType)}`);
  }
  if (!Array.isArray(layers)) throw refuse(name, "bad-document", "its manifest has no list of layers");
  if (layers.length === 0) throw refuse(name, "bad-document", "it has no layers, so nothing in it can run");
  if (layers.length > limits.layers) {
    throw refuse(name, "too-many-layers", `it has ${layers.length} layers, at most ${limits.layers}`, {
      limit: limits.layers,
    });
  }
  const found = layers.map((layer: unknown, i) => {
    const type = isRecord(layer) ? layer["mediaType"] : undefined;
    if (typeof type !== "string" || !LAYER_TYPES.includes(type)) {
      throw refuse(name, "layer-type", `layer ${i} is of type ${shown(type)}, which is not unpacked here`);
    }
    return descriptor(name, `layer ${i}`, layer);
  });
  const about = descriptor(name, "its configuration", config);
  const bytes = found.reduce((sum, { size }) => sum + size, 0);
  if (about.size > limits.documentBytes || bytes > limits.downloadBytes) {
    const limit = bytes > limits.downloadBytes ? limits.downloadBytes : limits.documentBytes;
    throw refuse(name, "too-large", `it says it has ${Math.max(bytes, about.size)} bytes, at most ${limit}`, { limit });
  }
  return { kind: "image", config: about, layers: found };
}

/**
 * The entry of an index that is for this machine, the plain one before those for newer processors.
 *
 * @throws BulkheadError IMAGE_NOT_FOUND when there is none; IMAGE_REFUSED when it is an index again
 */
export function choosePlatform(name: string, entries: readonly IndexEntry[], architecture: string): IndexEntry {
  const wanted = `linux/${architecture}`;
  const fitting = entries.filter(({ platform }) => platform === wanted || platform.startsWith(`${wanted}/`));
  const chosen = fitting.toSorted((a, b) => a.platform.length - b.platform.length)[0];
  if (chosen === undefined) {
    const there = [...new Set(entries.map(({ platform }) => shown(platform || "unknown")))];
    throw new BulkheadError("IMAGE_NOT_FOUND", {
      what: `${name} has no image for ${wanted}`,
      why: `it is there for: ${there.slice(0, MAX_SHOWN_PLATFORMS).join(", ") || "nothing"}`,
      next: "choose another tag, or an image for this machine",
    });
  }
  if (chosen.isIndex) throw refuse(name, "nested-index", "its index leads to another index");
  return chosen;
}

/**
 * Reads an image's configuration.
 *
 * @param layers how many the manifest has
 * @throws BulkheadError IMAGE_REFUSED; IMAGE_NOT_FOUND when it is for another machine
 */
export function parseOciConfig(name: string, bytes: Uint8Array, layers: number, limits: ImageLimits): OciConfig {
  const value = parseJson(name, "configuration", bytes, limits);
  const machine = `${shown(value["os"])}/${shown(value["architecture"])}`;
  if (machine !== `linux/${goArchitecture()}`) {
    throw new BulkheadError("IMAGE_NOT_FOUND", {
      what: `${name} has no image for linux/${goArchitecture()}`,
      why: `it is there for: ${machine}`,
      next: "choose another tag, or an image for this machine",
    });
  }
  const { diff_ids: diffIds } = isRecord(value["rootfs"]) ? value["rootfs"] : {};
  const list: readonly unknown[] = Array.isArray(diffIds) ? diffIds : [];
  if (list.length !== layers) {
    throw refuse(name, "bad-document", `its manifest has ${layers} layers, its configuration ${list.length}`);
  }
  const checked = list.map((id, i) => {
    if (typeof id === "string" && DIGEST.test(id)) return id;
    throw refuse(name, "bad-document", `layer ${i} has no sha256 digest of its content but ${shown(id)}`);
  });
  return { diffIds: checked, ...parseProcess(name, isRecord(value["config"]) ? value["config"] : {}) };
}

function parseProcess(name: string, config: Record<string, unknown>): Omit<OciConfig, "diffIds"> {
  const text = (key: string): string => {
    const value = config[key] ?? "";
    if (typeof value === "string" && !value.includes("\0")) return value;
    throw refuse(name, "bad-document", `${key} of its configuration is no text`);
  };
  const texts = (key: string): readonly string[] => {
    const value = config[key] ?? [];
    if (Array.isArray(value) && value.every((item) => typeof item === "string" && !item.includes("\0"))) return value;
    throw refuse(name, "bad-document", `${key} of its configuration is no list of texts`);
  };
  const keys = (key: string): readonly string[] => {
    const value = config[key] ?? {};
    if (isRecord(value) && !Object.keys(value).some((item) => item.includes("\0"))) return Object.keys(value);
    throw refuse(name, "bad-document", `${key} of its configuration is no object`);
  };
  const workdir = text("WorkingDir");
  return {
    env: environment(texts("Env")),
    user: text("User"),
    workdir: workdir === "" || workdir.startsWith("/") ? workdir : `/${workdir}`,
    entrypoint: texts("Entrypoint"),
    cmd: texts("Cmd"),
    stopSignal: text("StopSignal") || null,
    exposedPorts: keys("ExposedPorts"),
    volumes: keys("Volumes").filter((path) => path.startsWith("/")),
    labels: labels(name, config["Labels"] ?? {}),
  };
}

/** `KEY=VALUE`, of which the last of a name counts; what has no name or no value is left out, as other engines do. */
function environment(entries: readonly string[]): Readonly<Record<string, string>> {
  const pairs = entries.flatMap((entry): readonly (readonly [string, string])[] => {
    const equals = entry.indexOf("=");
    return equals < 1 ? [] : [[entry.slice(0, equals), entry.slice(equals + 1)]];
  });
  return Object.fromEntries(pairs);
}

function labels(name: string, value: unknown): Readonly<Record<string, string>> {
  if (isRecord(value) && Object.values(value).every((label) => typeof label === "string")) {
    return value as Record<string, string>;
  }
  throw refuse(name, "bad-document", "Labels of its configuration are no texts");
}
