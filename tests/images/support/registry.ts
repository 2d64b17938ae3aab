import { execFile, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { TestAuthority } from "../../../packages/engine/src/testing/certificates.ts";
import { stateDir } from "./config.ts";

const PROGRAM = join(stateDir, "test/docker-registry/usr/bin/docker-registry");
/** `secret`, as htpasswd's bcrypt writes it. */
const PASSWORD_HASH = "$2b$05$CldIFYtseLcBfgUfdB1JuOGWIAXjsFMAK7OCLCzz1K1jqtgjC3bWa";
const START_WITHIN_MS = 60_000;

const run = promisify(execFile);

/** What a test with a registry needs and this machine lacks; empty when it can run. */
export function lackingRegistry(): readonly string[] {
  return [
    ...(process.getuid?.() === 0 ? [] : ["root"]),
    ...(existsSync(PROGRAM) ? [] : [PROGRAM]),
    ...(existsSync("/usr/bin/skopeo") ? [] : ["skopeo"]),
  ];
}

export interface Registry extends AsyncDisposable {
  /** `localhost:40123` */
  readonly host: string;
  /** Of its authority, where it speaks TLS. */
  readonly caFile: string;
  /** Credentials for it, where it asks for them. */
  readonly authFile: string;
  /** Puts a layout's image into it, with all that an index leads to, as it is or in Docker's own form. */
  push(layout: string, tag: string, repository: string, format?: "oci" | "v2s2"): Promise<void>;
}

/** Debian's own docker-registry on a port of loopback that the kernel chooses. */
export async function startRegistry(
  options: { readonly tls?: boolean; readonly auth?: boolean } = {},
): Promise<Registry> {
  const dir = mkdtempSync(join(tmpdir(), "bulkhead-registry-"));
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rmSync(dir, { recursive: true, force: true }));
  const [caFile, authFile] = [join(dir, "ca.pem"), join(dir, "auth.json")];
  const authority = await TestAuthority.make();
  const { key, cert } = await authority.issue("localhost");
  writeFileSync(caFile, authority.pem);
  writeFileSync(join(dir, "key.pem"), key);
  writeFileSync(join(dir, "cert.pem"), cert);
  writeFileSync(join(dir, "htpasswd"), `user:${PASSWORD_HASH}\n`);
  mkdirSync(join(dir, "data"));
  const config = {
    version: "0.1",
    log: { level: "info", formatter: "json" },
    storage: { filesystem: { rootdirectory: join(dir, "data") } },
    http: {
      addr: "127.0.0.1:0",
      ...(options.tls === true && { tls: { certificate: join(dir, "cert.pem"), key: join(dir, "key.pem") } }),
    },
    ...(options.auth === true && { auth: { htpasswd: { realm: "test", path: join(dir, "htpasswd") } } }),
  };
  // What is JSON is YAML too.
  writeFileSync(join(dir, "config.yml"), JSON.stringify(config));
  const child = spawn(PROGRAM, ["serve", join(dir, "config.yml")], { stdio: ["ignore", "ignore", "pipe"] });
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
  undo.defer(async () => {
    child.kill("SIGKILL");
    await ended;
  });
  const host = `localhost:${await portOf(child.stderr, ended)}`;
  const auth = { auths: { [host]: { auth: Buffer.from("user:secret").toString("base64") } } };
  writeFileSync(authFile, JSON.stringify(auth));
  const push: Registry["push"] = async (layout, tag, repository, format) => {
    const form = format === undefined ? ["--all"] : ["--format", format];
    const to = [...form, "--dest-tls-verify=false", "--authfile", authFile];
    await run("skopeo", ["copy", "--quiet", ...to, `oci:${layout}:${tag}`, `docker://${host}/${repository}`]);
  };
  const owned = undo.move();
  return { host, caFile, authFile, push, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** It says in its log where it listens. */
async function portOf(log: NodeJS.ReadableStream, ended: Promise<void>): Promise<number> {
  let text = "";
  const found = new Promise<number>((resolve) => {
    log.on("data", (chunk: Buffer) => {
      text += chunk.toString();
      const port = /listening on 127\.0\.0\.1:(\d+)/.exec(text)?.[1];
      if (port !== undefined) resolve(Number(port));
    });
  });
  const late = new Promise<never>((_, reject) => {
    setTimeout(() => reject(new Error(`the registry does not listen: ${text}`)), START_WITHIN_MS).unref();
    void ended.then(() => reject(new Error(`the registry ended: ${text}`)));
  });
  return await Promise.race([found, late]);
}
