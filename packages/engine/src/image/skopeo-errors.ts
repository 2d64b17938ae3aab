import { BulkheadError, type ErrorCode } from "@bulkhead/contract";
import type { ProgramResult } from "../system/process.ts";
import type { ImageSource } from "./reference.ts";

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

const PLAIN_HTTP = /server gave HTTP response to HTTPS client/;

/** skopeo's and the registries' own words, the more certain first. */
const MEANINGS: readonly Meaning[] = [
  {
    pattern: /Source image rejected|Running image .* is rejected by policy/,
    code: "IMAGE_DENIED",
    what: (source) => `the signature policy of this host does not admit ${source.name}`,
    next: "sign the image as /etc/containers/policy.json asks, or have whoever runs this host change the policy",
    kind: "policy",
  },
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
    pattern:
      /manifest unknown|name unknown|not found|no such file or directory|\b404\b|no image found|no descriptor found/i,
    code: "IMAGE_NOT_FOUND",
    what: (source) => `${source.name} is not there`,
    next: "check the name and the tag",
    kind: "not-found",
  },
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
    next: "make room with: bulkhead image gc --keep 10g",
    kind: "no-space",
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
  return text.replace(/[^\x20-\x7e]+/g, " ").slice(0, MAX_SHOWN_CHARACTERS);
}

/** What a failed skopeo means. */
export function pullError(source: ImageSource, result: ProgramResult): BulkheadError {
  const message = lastMessage(result.stderr);
  // Names and paths may hold any of the words that are looked for.
  const said = message.replaceAll(source.kind === "registry" ? source.name : source.path, "");
  const details = { source: source.name, message };
  const meaning = result.signal === "SIGXFSZ" ? MEANINGS.find(({ kind }) => kind === "too-large") : undefined;
  const known = meaning ?? MEANINGS.find(({ pattern }) => pattern.test(said));
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
