import { resolve } from "node:path";
import { BulkheadError } from "@bulkhead/contract";

/** Where short names lead, and what stands before a name of one part there. */
const DEFAULT_REGISTRY = "docker.io";
const OFFICIAL = "library";
/** The name of the same registry in credentials that were written long ago. */
const OLD_DEFAULT_REGISTRY = "index.docker.io";
const DEFAULT_TAG = "latest";
/** What registries accept at most: distribution's reference grammar. */
const MAX_REPOSITORY_CHARACTERS = 255;
const MAX_TAG_CHARACTERS = 128;
/** A name becomes the name of a file, in which most separators take three characters. */
const MAX_NAME_CHARACTERS = 200;
const MAX_FILE_NAME_BYTES = 250;

const COMPONENT = /^[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*$/;
const TAG = new RegExp(`^\\w[\\w.-]{0,${MAX_TAG_CHARACTERS - 1}}$`);
const DIGEST = /^sha256:[0-9a-f]{64}$/;
const HOST =
  /^(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9A-Fa-f:]+\])$/;
/** The name of an image in a layout or an archive. */
const LOCAL_TAG = /^[A-Za-z0-9][\w./:@+-]{0,254}$/;
const LOCAL_KINDS = ["oci", "oci-archive", "docker-archive", "rootfs"] as const;

interface Named {
  /** The one spelling of the reference, which is the image's name in the store. */
  readonly name: string;
}

export interface RegistrySource extends Named {
  readonly kind: "registry";
  /** `docker.io`, `registry.example:5000` */
  readonly registry: string;
  readonly repository: string;
  /** Null where a digest says which image is meant. */
  readonly tag: string | null;
  readonly digest: string | null;
}

export interface LocalSource extends Named {
  readonly kind: (typeof LOCAL_KINDS)[number];
  /** Absolute and normal. */
  readonly path: string;
  /** Which image of several; null when there is only one. */
  readonly tag: string | null;
}

/** Where an image comes from that is not in the store. */
export type ImageSource = RegistrySource | LocalSource;

function invalid(text: string, why: string, next: string): BulkheadError {
  return new BulkheadError("SPEC_INVALID", {
    what: `${JSON.stringify(text)} does not name an image`,
    why,
    next,
    details: { field: "image" },
  });
}

/**
 * Reads where an image is to come from: `python:3.12-slim` (Docker Hub), `registry.example:5000/team/x:1.2`, either with
 * `@sha256:…`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:NAME]`, `rootfs:DIR`.
 *
 * @param base absolute; where paths that are not absolute begin
 * @throws BulkheadError SPEC_INVALID with what is wrong and what to write; NOT_SUPPORTED for `dockerfile:`
 */
export function parseReference(text: string, base: string = process.cwd()): ImageSource {
  const local = LOCAL_KINDS.find((kind) => text.startsWith(`${kind}:`));
  if (local !== undefined) return bounded(text, parseLocal(text, local, text.slice(local.length + 1), base));
  if (text.startsWith("dockerfile:")) throw dockerfile(text);
  return bounded(text, parseRegistry(text, text.replace(/^docker:\/\//, "")));
}

/** Whether a registry is on this machine's loopback, where no one listens in on plain HTTP. */
export function isLoopback(registry: string): boolean {
  const host = registry.replace(/:\d+$/, "");
  return host === "localhost" || host === "[::1]" || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host);
}

/** The file below `refs` that says which image a name stands for. */
export function refFileName(name: string): string {
  return encodeURIComponent(name);
}

/** Names are the names of files too. */
export function nameFits(name: string): boolean {
  return name.length <= MAX_NAME_CHARACTERS && Buffer.byteLength(refFileName(name)) <= MAX_FILE_NAME_BYTES;
}

function bounded<T extends ImageSource>(text: string, source: T): T {
  if (nameFits(source.name)) return source;
  throw invalid(
    text.slice(0, MAX_NAME_CHARACTERS),
    `in full it has ${source.name.length} characters, and a name here at most ${MAX_NAME_CHARACTERS}`,
    "use a shorter name or path",
  );
}

function dockerfile(text: string): BulkheadError {
  return new BulkheadError("NOT_SUPPORTED", {
    what: `${JSON.stringify(text)} is not built here`,
    why: "a build runs the file's commands, and the tools that do it want to mount and to make users, which no sandbox lets them",
    next: "build it with: buildah build --tag oci:built:latest DIR, and use oci:built:latest",
    details: { field: "image" },
  });
}

function parseLocal(text: string, kind: LocalSource["kind"], rest: string, base: string): LocalSource {
  const colon = kind === "rootfs" ? -1 : rest.indexOf(":");
  const written = colon === -1 ? rest : rest.slice(0, colon);
  const tag = colon === -1 ? null : rest.slice(colon + 1);
  if (written === "" || /[\0-\x1f\x7f]/.test(written)) {
    throw invalid(text, `no path follows ${kind}:`, `write it like ${kind}:PATH`);
  }
  if (tag !== null && !LOCAL_TAG.test(tag)) {
    throw invalid(
      text,
      `what follows the path, ${JSON.stringify(tag)}, is no name of an image in it`,
      `write it like ${kind}:PATH:NAME; the path itself cannot have a colon`,
    );
  }
  const path = resolve(base, written);
  if (path.includes(":"))
    throw invalid(text, "a path with a colon cannot be told from its name", "move it or link to it");
  return { kind, path, tag, name: `${kind}:${path}${tag === null ? "" : `:${tag}`}` };
}

function parseRegistry(text: string, written: string): RegistrySource {
  if (/^\w+:\/\//.test(written)) {
    throw invalid(text, "a reference has no scheme", `write ${JSON.stringify(written.replace(/^\w+:\/\//, ""))}`);
  }
  const { path, tag, digest } = split(text, written);
  const slash = path.indexOf("/");
  const first = slash === -1 ? "" : path.slice(0, slash);
  const hasHost = /[.:\][]/.test(first) || first.toLowerCase() === "localhost";
  const registry = hasHost ? checkedHost(text, first) : DEFAULT_REGISTRY;
  const rest = hasHost ? path.slice(slash + 1) : path;
  const isOfficial = registry === DEFAULT_REGISTRY && !rest.includes("/");
  const repository = isOfficial ? `${OFFICIAL}/${rest}` : rest;
  checkRepository(text, rest);
  const chosen = digest === null ? (tag ?? DEFAULT_TAG) : null;
  const name = `${registry}/${repository}${chosen === null ? `@${digest}` : `:${chosen}`}`;
  return { kind: "registry", registry, repository, tag: chosen, digest, name };
}

/** With a tag and a digest the digest says which image it is; the tag is for people. */
function split(text: string, written: string): { path: string; tag: string | null; digest: string | null } {
  const at = written.indexOf("@");
  const digest = at === -1 ? null : written.slice(at + 1);
  const named = at === -1 ? written : written.slice(0, at);
  if (digest !== null && !DIGEST.test(digest)) {
    throw invalid(
      text,
      `${JSON.stringify(digest.slice(0, MAX_TAG_CHARACTERS))} is no digest`,
      "a digest is sha256: and 64 digits of 0-9 and a-f",
    );
  }
  const colon = named.lastIndexOf(":");
  const hasTag = colon > named.lastIndexOf("/");
  const tag = hasTag ? named.slice(colon + 1) : null;
  if (tag !== null && !TAG.test(tag)) {
    throw invalid(
      text,
      `${JSON.stringify(tag.slice(0, MAX_TAG_CHARACTERS))} is no tag`,
      `a tag has letters, digits, _, . and -, at most ${MAX_TAG_CHARACTERS}`,
    );
  }
  return { path: hasTag ? named.slice(0, colon) : named, tag, digest };
}

function checkedHost(text: string, written: string): string {
  const { host = "", port } = /^(?<host>\[[^\]]*\]|[^:]*)(?::(?<port>\d+))?$/.exec(written)?.groups ?? {};
  const portFits = port === undefined || (Number(port) > 0 && Number(port) < 65_536);
  if (!HOST.test(host) || !portFits) {
    throw invalid(
      text,
      `${JSON.stringify(written)} is no host name with a port`,
      "write it like registry.example:5000/x",
    );
  }
  // Names are looked up without regard to case, and one image must not have two names.
  const lower = written.toLowerCase();
  return lower === OLD_DEFAULT_REGISTRY ? DEFAULT_REGISTRY : lower;
}

function checkRepository(text: string, repository: string): void {
  if (repository.length > MAX_REPOSITORY_CHARACTERS) {
    throw invalid(text, `the repository has ${repository.length} characters`, "use a shorter name");
  }
  for (const component of repository.split("/")) {
    if (COMPONENT.test(component)) continue;
    if (component !== "" && COMPONENT.test(component.toLowerCase())) {
      throw invalid(text, `${JSON.stringify(component)} has upper-case letters`, `did you mean ${text.toLowerCase()}?`);
    }
    const why = component === "" ? "a part of the name is empty" : `${JSON.stringify(component)} is no part of a name`;
    throw invalid(text, why, "use lower-case letters and digits with single . _ or - between them, parts divided by /");
  }
}
