import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { join, posix } from "node:path";
import { BulkheadError, type MountPlan } from "@bulkhead/contract";
import { resolveInside } from "../policy/landing.ts";
import { within } from "../policy/mounts.ts";
import type { Files } from "../sandbox/files.ts";

/** Nothing can be mounted there, and no image has anything there. */
const TRUST_DIR = "/.bulkhead/trust";
/** The edge's certificate alone, and after those that the image trusts. */
const AUTHORITY_FILE = `${TRUST_DIR}/edge.pem`;
const BUNDLE_FILE = `${TRUST_DIR}/bundle.pem`;

/** For programs that bring certificates of their own and ask a variable before they use them. */
export const TRUST_VARIABLES: Readonly<Record<string, string>> = {
  ...Object.fromEntries(
    [
      ...["SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "REQUESTS_CA_BUNDLE", "PIP_CERT"],
      ...["AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO", "NIX_SSL_CERT_FILE", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE"],
    ].map((name) => [name, BUNDLE_FILE]),
  ),
  // These two add to what the program has.
  NODE_EXTRA_CA_CERTS: AUTHORITY_FILE,
  DENO_CERT: AUTHORITY_FILE,
};

/** Where distributions keep all certificates in one file: Debian, Alpine and Arch; Fedora and its kin, twice; openSUSE, twice. */
const BUNDLES = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/ssl/cert.pem",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
  "/etc/ssl/ca-bundle.pem",
  "/var/lib/ca-certificates/ca-bundle.pem",
];
/** Where OpenSSL and Go look for certificates in files of their own. */
const DIRECTORY = "/etc/ssl/certs";
/** OpenSSL's hash of the authority's subject, by which it looks for a certificate in a directory. */
export const SUBJECT_HASH = "9e4346db";
/** Mozilla's list has 220 KB. */
const BUNDLE_MAX_BYTES = 4 * 1024 * 1024;
const ROOT = "0:0";

/** @returns null for what is not there, and for what is no list of certificates. */
async function readBundle(path: string): Promise<Buffer | null> {
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  let file;
  try {
    file = await open(path, flags);
  } catch {
    return null;
  }
  try {
    const stat = await file.stat();
    return stat.isFile() && stat.size <= BUNDLE_MAX_BYTES ? await file.readFile() : null;
  } finally {
    await file.close();
  }
}

/**
 * What is written into a sandbox so that its programs trust the edge, by path inside. The image's own files stay as they are; the
 * writable layer gets others over them. What the caller mounted is left alone.
 * @param rootfs of the image. @param certificate in PEM.
 */
export async function trustFiles(
  rootfs: string,
  mounts: readonly MountPlan[],
  certificate: string,
): Promise<ReadonlyMap<string, Buffer>> {
  const own = Buffer.from(certificate);
  const files = new Map<string, Buffer>();
  // Links in the image are followed here: what is written has none on its way that could lead into a mount.
  const place = async (path: string): Promise<string | null> => {
    const real = await resolveInside(rootfs, path);
    return real === null || mounts.some(({ target }) => within(real, target)) ? null : real;
  };
  let first: Buffer = Buffer.alloc(0);
  for (const path of BUNDLES) {
    const real = await place(path);
    const trusted = real === null ? null : await readBundle(join(rootfs, real));
    if (real === null || trusted === null) continue;
    if (first.length === 0) first = trusted;
    files.set(real, Buffer.concat([trusted, Buffer.from("\n"), own]));
  }
  const directory = await place(DIRECTORY);
  if (directory !== null) files.set(posix.join(directory, `${SUBJECT_HASH}.0`), own);
  files.set(AUTHORITY_FILE, own);
  files.set(BUNDLE_FILE, Buffer.concat([first, Buffer.from("\n"), own]));
  return files;
}

/** @throws BulkheadError RUNTIME_FAILED naming the file, ABORTED */
export async function installTrust(
  files: Files,
  content: ReadonlyMap<string, Buffer>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const options = { user: ROOT, mode: 0o644, parents: true, atomic: true, ...(signal && { signal }) };
  try {
    await Promise.all([...content].map(([path, bytes]) => files.write(path, bytes, options)));
  } catch (error) {
    if (!(error instanceof BulkheadError) || !error.code.startsWith("FILE_")) throw error;
    throw new BulkheadError("RUNTIME_FAILED", {
      what: "the certificate that programs have to trust could not be put into the sandbox",
      why: `${error.message}: ${error.why}`,
      next: "look at the image's /etc/ssl, and at the disk limit",
      cause: error,
    });
  }
}
