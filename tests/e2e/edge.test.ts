import { execFile } from "node:child_process";
import { chmodSync, cpSync, existsSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createHash } from "node:crypto";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, onTestFinished, test } from "vitest";
import { Engine } from "@bulkhead/engine";
import { GOOD, makeInternet, type Internet } from "../../conformance/internet.ts";
import { lacking, start } from "./cli-process.ts";

const SECRET = "s3cr3t-0f-th3-3dg3-4711";
const missing = lacking(process.env);
const lack = missing.length > 0 ? `: NOT TESTED, this machine lacks ${missing.join(", ")}` : "";
const dir = mkdtempSync(join(tmpdir(), "bulkhead-edge-"));
chmodSync(dir, 0o755);
const run = join(dir, "run");
const env = { ...process.env, BULKHEAD_RUN: run, NO_COLOR: "1" };

afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Where a program of the host is, its links followed. */
function found(name: string): string | null {
  const directories = [dirname(process.execPath), ...(process.env["PATH"] ?? "").split(":")];
  const paths = directories.map((entry) => join(entry, name));
  const path = paths.find((one) => existsSync(one));
  return path === undefined ? null : realpathSync(path);
}

const npm = found("npm");
const go = found("go");

// Sandboxes need root, the two binaries and an image: where one is missing nothing here can be true or false.
describe.skipIf(missing.length > 0)(`secrets by the command line${lack}`, { timeout: 120_000 }, () => {
  const words = ["--isolation", "container", "--network", "allow:api.example.com"];
  const secret = "api.example.com:Authorization=Bearer env:API_TOKEN";
  const given = { ...env, API_TOKEN: SECRET };

  test("are named in the plan and nowhere shown", async () => {
    const token = join(dir, "token");
    writeFileSync(token, `${SECRET}\n`);
    for (const how of [secret, `api.example.com:authorization=file:${token}`]) {
      for (const more of [[], ["--json"]]) {
        const { code, stdout, stderr } = await start(["explain", ...words, "--secret", how, ...more], given).outcome;
        expect([code, stderr]).toEqual([0, ""]);
        expect(stdout).toContain("authorization");
        expect(stdout).toContain("NODE_EXTRA_CA_CERTS");
        expect(stdout).not.toContain("s3cr3t");
      }
    }
    const inside = "cat /proc/*/environ; env; cat /proc/*/cmdline";
    const ran = await start(["run", ...words, "--secret", secret, "--json", "--", "sh", "-c", inside], given).outcome;
    expect(ran.stdout).toContain("NODE_EXTRA_CA_CERTS");
    expect(ran.stdout + ran.stderr).not.toContain("s3cr3t");
  });

  test.each([
    [`api.example.com:authorization=${SECRET}`, /is HOST:HEADER= and then env:NAME or file:PATH/],
    [`${SECRET}`, /--secret is not valid/],
    ["api.example.com:authorization=env:NOT_SET_ANYWHERE", /NOT_SET_ANYWHERE is not set/],
    ["api.example.com:authorization=file:/nowhere/at/all", /ENOENT/],
    ["other.example.com:authorization=env:API_TOKEN", /no rule allows other.example.com:443/],
    ["*.example.com:authorization=env:API_TOKEN", /one name, without a wildcard/],
    ["api.example.com:host=env:API_TOKEN", /about framing/],
  ])("%s is refused without being shown", async (how, why) => {
    const { code, stdout, stderr } = await start(["run", ...words, "--secret", how, "--", "true"], given).outcome;
    expect(code).toBe(121);
    expect(stderr).toMatch(why);
    expect(stdout + stderr).not.toContain("s3cr3t");
  });

  test("need a network", async () => {
    const { code, stderr } = await start(["run", "--secret", secret, "--", "true"], given).outcome;
    expect(code).toBe(121);
    expect(stderr).toMatch(/--secret is given without a network/);
  });
});

const PROGRAMS = "/opt/programs";

/** This host's Node.js and npm, copied: where they are may be Bulkhead's own directory, which nothing is mounted from. */
function nodeAndNpm(): string {
  const programs = join(dir, "programs");
  if (!existsSync(programs)) {
    cpSync(realpathSync(process.execPath), join(programs, "node"));
    cpSync(dirname(dirname(npm!)), join(programs, "npm"), { recursive: true });
  }
  return programs;
}

/** A sandbox with a header for one host, and that host. */
async function place(isolation: "container" | "gvisor", mounts: readonly string[]) {
  const internet = await makeInternet();
  onTestFinished(() => internet[Symbol.asyncDispose]());
  const engine = await Engine.open({ run, outside: internet.net });
  onTestFinished(() => engine[Symbol.asyncDispose]());
  const box = await engine.create({
    isolation,
    network: { allow: [GOOD] },
    secrets: [{ host: GOOD, header: "authorization", value: `Bearer ${SECRET}` }],
    mounts: mounts.map((source) => ({ source, target: PROGRAMS, readOnly: true })),
  });
  const withHeader = (path: string): boolean =>
    internet.seen.some((one) => one.path === path && one.headers.authorization === `Bearer ${SECRET}`);
  return { box, internet, withHeader };
}

/** A package as a registry has it; `pack` makes its archive. */
async function publish(internet: Internet, pack: () => Promise<Buffer>): Promise<void> {
  const archive = await pack();
  const integrity = `sha512-${createHash("sha512").update(archive).digest("base64")}`;
  const dist = { tarball: `https://${GOOD}/demo/-/demo-1.0.0.tgz`, integrity };
  const versions = { "1.0.0": { name: "demo", version: "1.0.0", dist } };
  internet.files.set(
    "/demo",
    Buffer.from(JSON.stringify({ name: "demo", "dist-tags": { latest: "1.0.0" }, versions })),
  );
  internet.files.set("/demo/-/demo-1.0.0.tgz", archive);
}

const PACKAGE = `set -e; mkdir -p /tmp/p/package; cd /tmp/p
echo '{"name":"demo","version":"1.0.0","main":"index.js"}' >package/package.json
echo 'module.exports = 42' >package/index.js
tar czf demo.tgz package`;

describe.each(["container", "gvisor"] as const)("programs that bring their own certificates, at %s", (isolation) => {
  const without = npm === null ? ": NOT TESTED, there is no npm" : "";

  // Node.js and npm are this host's own: without npm nothing could be shown.
  test.skipIf(missing.length > 0 || npm === null)(
    `Node.js and npm${lack}${without}`,
    { timeout: 300_000 },
    async () => {
      const [node, cli] = [`${PROGRAMS}/node`, `${PROGRAMS}/npm/bin/npm-cli.js`];
      const { box, internet, withHeader } = await place(isolation, [nodeAndNpm()]);
      const fetched = await box.exec([node, "-e", `fetch("https://${GOOD}/who").then(r=>r.text()).then(console.log)`]);
      expect([fetched.text, fetched.errorText]).toEqual([`${GOOD}\n`, ""]);
      expect(withHeader("/who")).toBe(true);
      await publish(internet, async () => {
        await box.exec(["sh", "-c", PACKAGE], { check: true });
        return await box.files.read("/tmp/p/demo.tgz");
      });
      const options = ["--no-audit", "--no-fund", "--prefix", "/tmp/app", "--registry", `https://${GOOD}/`];
      const install = await box.exec([node, cli, "install", ...options, "demo"], { cwd: "/tmp" });
      expect(install.exitCode, install.errorText).toBe(0);
      const used = await box.exec([node, "-p", "require('/tmp/app/node_modules/demo')"]);
      expect(used.text).toBe("42\n");
      expect([withHeader("/demo"), withHeader("/demo/-/demo-1.0.0.tgz")]).toEqual([true, true]);
      expect(box.network.denials()).toEqual([]);
    },
  );

  const goless = go === null ? ": NOT TESTED, there is no go" : "";

  // Compiled here: without a compiler there is no program.
  test.skipIf(missing.length > 0 || go === null)(`Go${lack}${goless}`, { timeout: 300_000 }, async () => {
    const program = join(dir, "fetch");
    const source = fileURLToPath(new URL("programs/fetch.go", import.meta.url));
    const environment = { ...process.env, CGO_ENABLED: "0", GO111MODULE: "off", GOFLAGS: "" };
    if (!existsSync(program)) await promisify(execFile)(go!, ["build", "-o", program, source], { env: environment });
    const { box, withHeader } = await place(isolation, []);
    await box.files.write("/tmp/fetch", readFileSync(program), { mode: 0o755 });
    for (const told of [[], ["env", "-i"]]) {
      const result = await box.exec([...told, "/tmp/fetch", `https://${GOOD}/who`]);
      expect([result.text, result.errorText]).toEqual([GOOD, ""]);
    }
    expect(withHeader("/who")).toBe(true);
  });
});
