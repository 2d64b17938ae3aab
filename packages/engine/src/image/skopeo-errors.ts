import { BulkheadError, type ErrorCode } from "@bulkhead/contract";
import type { ProgramResult } from "../system/process.ts";
import { MAKE_ROOM } from "./limits.ts";
import { policyRefusal } from "./policy-errors.ts";
import type { ImageSource, LocalSource } from "./reference.ts";

const MAX_SHOWN_CHARACTERS = 400;

interface Meaning {
  readonly pattern: RegExp;
  readonly code: ErrorCode;
  readonly what: (source: ImageSource) => string;
  readonly why?: string;
  readonly next?: string;
  readonly kind: string;
}

const host = (source: ImageSource): string => (source.kind === "registry" ? source.registry : source.path);

/** Nothing of the policy's is looked for in other words: what the policy says is no. */
const POLICY = /Source image rejected|Running image .* is rejected by policy|loading trust policy/;
const PLAIN_HTTP = /server gave HTTP response to HTTPS client/;

/** Wherever an image comes from. */
const OF_ALL: readonly Meaning[] = [
  {
    pattern: /digest mismatch|does not match|did not match|doesn't match|mismatch|unexpected size|size mismatch/i,
    code: "IMAGE_REFUSED",
    what: (source) => `${source.name}: what came is not what its digests say`,
    next: "pull it again; if it stays so the registry is damaged or hostile",
    kind: "wrong-digest",
  },
  {
    pattern: /file too large|File size limit|exceeded maximum allowed size/i,
    code: "IMAGE_REFUSED",
    what: (source) => `${source.name}: a part of it is larger than it says, or than is allowed`,
    kind: "too-large",
  },
  {
    pattern: /no space left on device/i,
    code: "HOST_RESOURCE",
    what: (source) => `there is no room for ${source.name}`,
    next: MAKE_ROOM,
    kind: "no-space",
  },
];

/** skopeo's and the registries' own words, the more certain first. */
const OF_REGISTRIES: readonly Meaning[] = [
  {
    pattern: PLAIN_HTTP,
    code: "IMAGE_PULL_FAILED",
    what: (source) => `${host(source)} speaks plain HTTP`,
    why: "what comes that way can be read and changed on the way, so it is taken from this machine's loopback only",
    next: "give the registry a certificate, or say that it may be so: --insecure-registry HOST:PORT",
    kind: "plain-http",
  },
  {
    pattern: /x509: |tls: |certificate/i,
    code: "IMAGE_PULL_FAILED",
    what: (source) => `the certificate of ${host(source)} cannot be trusted`,
    next: "put the authority's certificate into /etc/containers/certs.d/HOST:PORT/ca.crt",
    kind: "certificate",
  },
  {
    pattern:
      /unauthorized|authentication required|denied|no basic auth credentials|invalid username\/password|\b40[13]\b/i,
    code: "IMAGE_DENIED",
    what: (source) => `${host(source)} does not give ${source.name} to this user`,
    why: "the name may be misspelt, the image private, or the credentials missing or wrong",
    next: "log in with: skopeo login REGISTRY; see docs/images.md for where credentials are looked for",
    kind: "denied",
  },
  {
    pattern: /manifest unknown|name unknown|not found|no such file or directory|\b404\b/i,
    code: "IMAGE_NOT_FOUND",
    what: (source) => `${source.name} is not there`,
    next: "check the name and the tag",
    kind: "not-found",
  },
  {
    pattern: /too ?many ?requests|\b429\b/i,
    code: "IMAGE_PULL_FAILED",
    what: (source) => `${host(source)} gives no more images for now`,
    next: "log in with: skopeo login REGISTRY, or try again later",
    kind: "rate",
  },
  {
    pattern:
      /connection refused|no such host|i\/o timeout|connection reset|network is unreachable|EOF|server misbehaving/i,
    code: "IMAGE_PULL_FAILED",
    what: (source) => `${host(source)} cannot be reached`,
    next: "check the name and this host's network and proxy; a pull that is repeated goes on where it was",
    kind: "unreachable",
  },
];

const READS: Readonly<Record<LocalSource["kind"], string>> = {
  oci: "an OCI layout: a directory with oci-layout, index.json and blobs, as skopeo copy and buildah write it",
  "oci-archive": "an OCI layout in a tar, as podman save --format oci-archive writes it",
  "docker-archive": "an archive of images, as docker save writes it",
  rootfs: "a directory",
};

/** What is on this machine is near, and needs no credentials: what is wrong is what is there. */
function ofLocal({ kind, path }: LocalSource): readonly Meaning[] {
  return [
    {
      pattern: /more than one image|choose an image|expected 1 item/i,
      code: "IMAGE_NOT_FOUND",
      what: () => `${path} holds several images`,
      next: `say which: ${kind}:${path}:NAME`,
      kind: "several",
    },
    {
      pattern: /no image found|no descriptor found|\bTag\b.*not found/i,
      code: "IMAGE_NOT_FOUND",
      what: (source) => `${source.name} is not there: ${path} holds no image of that name`,
      next: "check the name",
      kind: "not-found",
    },
    {
      pattern: /./,
      code: "IMAGE_REFUSED",
      what: () => `${path} cannot be read as ${kind}:`,
      next: `${kind}: takes ${READS[kind]}`,
      kind: "unreadable",
    },
  ];
}

/** Whether a registry that was asked over TLS answered without. */
export function speaksPlainHttp(stderr: string): boolean {
  return PLAIN_HTTP.test(stderr);
}

/** The message of the last log line; a registry's own words may be in it, so nothing a terminal would act on. */
export function lastMessage(stderr: string): string {
  const line = stderr.trim().split("\n").at(-1) ?? "";
  const quoted = /msg=("(?:[^"\\]|\\.)*")/.exec(line)?.[1];
  let text = line;
  try {
    if (quoted !== undefined) text = JSON.parse(quoted) as string;
  } catch {
    // Go quotes some bytes in ways that JSON has not; the line as it is says enough.
  }
  // The name is said before it.
  text = text.replace(/^(?:Error )?(?:parsing image name|initializing source) \S+: /, "");
  return text.replace(/[^\x20-\x7e]+/g, " ").slice(0, MAX_SHOWN_CHARACTERS);
}

/** What a failed skopeo means. */
export function pullError(source: ImageSource, result: ProgramResult): BulkheadError {
  const message = lastMessage(result.stderr);
  // Names and paths may hold any of the words that are looked for.
  const said = message.replaceAll(source.kind === "registry" ? source.name : source.path, "");
  const details = { source: source.name, message };
  if (POLICY.test(said)) {
    const { reason, why, next } = policyRefusal(said);
    return new BulkheadError("IMAGE_DENIED", {
      what: `the signature policy of this host does not admit ${source.name}`,
      why: `${why} (${message})`,
      next,
      details: { ...details, kind: "policy", reason },
    });
  }
  const meanings = source.kind === "registry" ? [...OF_REGISTRIES, ...OF_ALL] : [...OF_ALL, ...ofLocal(source)];
  const meaning = result.signal === "SIGXFSZ" ? OF_ALL.find(({ kind }) => kind === "too-large") : undefined;
  const known = meaning ?? meanings.find(({ pattern }) => pattern.test(said));
  if (known === undefined) {
    return new BulkheadError("IMAGE_PULL_FAILED", {
      what: `${source.name} could not be pulled`,
      why: message || `skopeo ended with ${result.signal ?? `exit code ${result.exitCode}`}`,
      details: { ...details, kind: "failed" },
    });
  }
  return new BulkheadError(known.code, {
    what: known.what(source),
    why: known.why ?? message,
    ...(known.next !== undefined && { next: known.next }),
    details: { ...details, kind: known.kind },
  });
}
