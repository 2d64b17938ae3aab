import { execFile } from "node:child_process";
import { createPublicKey, generateKeyPairSync, sign, type KeyObject } from "node:crypto";
import { createReadStream, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join, normalize } from "node:path";
import { promisify } from "node:util";
import type { Layout, Made } from "./layout.ts";

const SIGSTORE_PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json";
const run = promisify(execFile);

/** What signing needs and this machine lacks; empty when it can be done. */
export function lackingSigning(): readonly string[] {
  return ["gpg", "gpgconf"].filter((name) => !existsSync(join("/usr/bin", name)));
}

/** Somebody who signs, with a key ring of his own. */
export interface Signer extends AsyncDisposable {
  /** File of the public key, which only root can read. */
  readonly keyFile: string;
  /** Of his own: where his signatures are written, and his key ring. */
  readonly environment: Readonly<Record<string, string>>;
  readonly fingerprint: string;
}

/**
 * @param signatures directory into which the signatures of all images go
 * @param dir short enough for the path of a socket
 */
export async function makeSigner(name: string, dir: string, signatures: string): Promise<Signer> {
  const [home, keys] = [join(dir, name), join(dir, name, "keys")];
  const containers = join(home, ".config/containers");
  mkdirSync(keys, { recursive: true, mode: 0o700 });
  mkdirSync(join(containers, "registries.d"), { recursive: true });
  writeFileSync(join(containers, "policy.json"), JSON.stringify({ default: [{ type: "insecureAcceptAnything" }] }));
  const staging = { "default-docker": { "lookaside-staging": `file://${signatures}` } };
  writeFileSync(join(containers, "registries.d/all.yaml"), JSON.stringify(staging));
  const environment = { PATH: "/usr/bin:/bin", HOME: home, GNUPGHOME: keys };
  const gpg = async (...words: readonly string[]): Promise<string> =>
    (await run("gpg", ["--batch", "--yes", "--passphrase", "", ...words], { env: environment })).stdout;
  await gpg("--quick-generate-key", `${name} <${name}@example.invalid>`, "ed25519", "sign", "never");
  const listed = await gpg("--list-keys", "--with-colons");
  const fingerprint = /^fpr:+([0-9A-F]{40}):/m.exec(listed)?.[1] ?? "";
  const keyFile = join(home, "public.gpg");
  await gpg("--armor", "--output", keyFile, "--export", fingerprint);
  const stop = async (): Promise<void> => void (await run("gpgconf", ["--kill", "all"], { env: environment }));
  return { keyFile, environment, fingerprint, [Symbol.asyncDispose]: stop };
}

/** Pushes as `Registry.push`, and signs what is pushed; `identity` is what the signature says it is, where that is a lie. */
export async function pushSigned(
  signer: Signer,
  layout: string,
  tag: string,
  reference: string,
  identity?: string,
): Promise<void> {
  const lie = identity === undefined ? [] : ["--sign-identity", identity];
  const words = ["copy", "--quiet", "--all", "--dest-tls-verify=false", "--sign-by", signer.fingerprint, ...lie];
  await run("skopeo", [...words, `oci:${layout}:${tag}`, `docker://${reference}`], { env: signer.environment });
}

/** Serves the files below a directory on a port of loopback. */
export async function serveFiles(dir: string): Promise<{ readonly url: string } & AsyncDisposable> {
  const server = createServer((request, response) => {
    const path = join(dir, normalize(decodeURIComponent(request.url ?? "/")));
    if (existsSync(path)) createReadStream(path).pipe(response);
    else response.writeHead(404).end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", () => resolve()));
  const close = async (): Promise<void> => {
    server.closeAllConnections();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  };
  return { url: `http://localhost:${(server.address() as AddressInfo).port}`, [Symbol.asyncDispose]: close };
}

/** A key pair as cosign's; the public half as PEM in a file. */
export function sigstoreKey(file: string): KeyObject {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  writeFileSync(file, createPublicKey(privateKey).export({ type: "spki", format: "pem" }), { mode: 0o600 });
  return privateKey;
}

/** Puts into a layout, under the name `signature`, what cosign puts beside an image: its signature as an image of its own. */
export function sigstoreSignature(layout: Layout, key: KeyObject, made: Made, reference: string): string {
  const payload = Buffer.from(
    JSON.stringify({
      critical: {
        identity: { "docker-reference": reference },
        image: { "docker-manifest-digest": made.digest },
        type: "cosign container image signature",
      },
      optional: {},
    }),
  );
  const annotations = { "dev.cosignproject.cosign/signature": sign("sha256", payload, key).toString("base64") };
  const layers = [{ ...layout.blob(SIGSTORE_PAYLOAD, payload), annotations }];
  const { bytes: _, ...config } = layout.json("application/vnd.oci.image.config.v1+json", {
    ...{ architecture: "", os: "", config: {} },
    rootfs: { type: "layers", diff_ids: [layers[0]!.digest] },
  });
  const type = "application/vnd.oci.image.manifest.v1+json";
  const manifest = layout.json(type, { schemaVersion: 2, mediaType: type, config, layers });
  layout.tag("signature", { digest: manifest.digest, manifest: manifest.bytes, layers });
  return made.digest.replace(":", "-");
}

/** A policy and where signatures are looked for, in the home directory of whoever pulls. */
export function writePolicy(
  home: string,
  docker: Readonly<Record<string, readonly unknown[]>>,
  registries: Readonly<Record<string, unknown>>,
): void {
  const containers = join(home, ".config/containers");
  mkdirSync(join(containers, "registries.d"), { recursive: true });
  const policy = { default: [{ type: "reject" }], transports: { docker } };
  writeFileSync(join(containers, "policy.json"), JSON.stringify(policy));
  writeFileSync(join(containers, "registries.d/all.yaml"), JSON.stringify(registries));
}
