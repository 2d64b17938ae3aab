import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ImageStore, collectGarbage, pullImage, type Pulling } from "@bulkhead/engine/images";
import { BulkheadError } from "@bulkhead/contract";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { lacking, start } from "../e2e/cli-process.ts";
import { environment, stateDir } from "./support/config.ts";
import { Layout, tarOf, tarOfFiles, type Made } from "./support/layout.ts";
import { lackingRegistry, startRegistry, type Registry } from "./support/registry.ts";
import { contents, pullingInto, scratch } from "./support/scene.ts";
import {
  lackingSigning,
  makeSigner,
  pushSigned,
  serveFiles,
  sigstoreKey,
  sigstoreSignature,
  writePolicy,
  type Signer,
} from "./support/signing.ts";
import { smallDebian } from "./support/userland.ts";

const TIMEOUT_MS = 300_000;
const missing = [...lackingRegistry(), ...lackingSigning()];
const lack = missing.length > 0 ? `: NOT TESTED, this machine lacks ${missing.join(", ")}` : "";
const cannotRun = lacking(environment);

// Set-up brings all of it; on a machine that has none of it nothing here can be true or false.
describe.skipIf(missing.length > 0)(`a policy that asks for signatures${lack}`, { timeout: TIMEOUT_MS }, () => {
  const dir = mkdtempSync(join(tmpdir(), "bulkhead-signed-"));
  const signatures = join(dir, "signatures");
  const home = join(dir, "home");
  const undo = new AsyncDisposableStack();
  let registry: Registry;
  let team: Signer;
  let stranger: Signer;
  let lookaside: string;

  beforeAll(async () => {
    mkdirSync(signatures);
    undo.defer(() => rmSync(dir, { recursive: true, force: true }));
    registry = undo.use(await startRegistry());
    team = undo.use(await makeSigner("team", dir, signatures));
    stranger = undo.use(await makeSigner("stranger", dir, signatures));
    lookaside = undo.use(await serveFiles(signatures)).url;
    trust({ keyPath: team.keyFile });
  }, TIMEOUT_MS);
  afterAll(() => undo.disposeAsync(), TIMEOUT_MS);

  /** Signatures of the registry's images by this key are asked for; nothing else is admitted from anywhere. */
  function trust(more: Readonly<Record<string, unknown>>, of = home): void {
    const signedBy = { type: "signedBy", keyType: "GPGKeys", ...more };
    writePolicy(of, { [registry.host]: [signedBy] }, { docker: { [registry.host]: { lookaside } } });
  }

  function oneImage(content: string): { readonly layout: Layout; readonly made: Made } {
    const layout = new Layout(join(scratch(), "layout"));
    const made = layout.image({ layers: [tarOfFiles({ "etc/motd": content })] });
    layout.tag("one", made);
    return { layout, made };
  }

  const pullingHere = (): Pulling => pullingInto(join(scratch(), "state"), { HOME: home });

  async function refused(reference: string, pulling = pullingHere()): Promise<unknown> {
    const failure: unknown = await pullImage(reference, pulling, { missingOnly: false }).catch(
      (error: unknown) => error,
    );
    expect(failure).toMatchObject({
      code: "IMAGE_DENIED",
      message: expect.stringContaining(reference),
      details: { kind: "policy" },
    });
    expect(contents(join(pulling.store.dir, ".."))).toMatchObject({ images: [], layers: [], unfinished: [] });
    return failure;
  }

  test("what its key has signed is pulled", async () => {
    const { layout, made } = oneImage("signed\n");
    await pushSigned(team, layout.dir, "one", `${registry.host}/signed/app:1`);
    const { digest, rootfs } = await pullImage(`${registry.host}/signed/app:1`, pullingHere());
    expect(digest).toBe(made.digest);
    expect(readFileSync(join(rootfs, "etc/motd"), "utf8")).toBe("signed\n");
    // A digest is no other name.
    expect((await pullImage(`${registry.host}/signed/app@${made.digest}`, pullingHere())).digest).toBe(made.digest);
  });

  test("of an index it is the image for this machine that has to be signed", async () => {
    const { layout, made } = oneImage("of an index\n");
    layout.index("both", { [`linux/${process.arch === "x64" ? "amd64" : process.arch}`]: made });
    await pushSigned(team, layout.dir, "both", `${registry.host}/signed/index:1`);
    expect((await pullImage(`${registry.host}/signed/index:1`, pullingHere())).digest).toBe(made.digest);
  });

  test("what nobody has signed is refused, also when all of it is there", async () => {
    const { layout } = oneImage("unsigned\n");
    await registry.push(layout.dir, "one", "unsigned/app:1");
    const reference = `${registry.host}/unsigned/app:1`;
    const told = { why: expect.stringContaining("no signature"), next: expect.stringContaining("registries.d") };
    expect(await refused(reference)).toMatchObject({ ...told, details: { reason: "unsigned" } });
    const open = pullingInto(join(scratch(), "state"), { HOME: scratch() });
    await pullImage(reference, open);
    const asked = { ...open, environment: pullingHere().environment };
    await expect(pullImage(reference, asked, { missingOnly: false })).rejects.toMatchObject({
      code: "IMAGE_DENIED",
      details: { reason: "unsigned" },
    });
  });

  test("what somebody else has signed is refused; with one signature that counts others do no harm", async () => {
    const { layout, made } = oneImage("of a stranger\n");
    const reference = `${registry.host}/stranger/app:1`;
    await pushSigned(stranger, layout.dir, "one", reference);
    expect(await refused(reference)).toMatchObject({
      why: expect.stringContaining("key that the policy trusts"),
      next: expect.stringContaining("policy.json"),
      details: { reason: "other-signer" },
    });
    await pushSigned(team, layout.dir, "one", reference);
    expect((await pullImage(reference, pullingHere())).digest).toBe(made.digest);
  });

  test("what is signed under another name is refused under this one", async () => {
    const { layout } = oneImage("signed as something else\n");
    const reference = `${registry.host}/renamed/app:1`;
    await pushSigned(team, layout.dir, "one", reference, `${registry.host}/trusted/tool:1`);
    expect(await refused(reference)).toMatchObject({
      why: expect.stringContaining("another name"),
      next: expect.stringContaining("signedIdentity"),
      details: { reason: "other-name" },
    });
  });

  test("a signature of other content is refused", async () => {
    const [good, bad] = [oneImage("good\n"), oneImage("bad\n")];
    const reference = `${registry.host}/moved/app:1`;
    await pushSigned(team, good.layout.dir, "one", reference);
    await registry.push(bad.layout.dir, "one", "moved/app:1");
    expect(await refused(reference)).toMatchObject({ details: { reason: "unsigned" } });
    const place = (made: Made): string => join(signatures, `moved/app@${made.digest.replace(":", "=")}`);
    mkdirSync(place(bad.made));
    writeFileSync(join(place(bad.made), "signature-1"), readFileSync(join(place(good.made), "signature-1")));
    expect(await refused(reference)).toMatchObject({
      why: expect.stringContaining("other content"),
      details: { reason: "other-content" },
    });
  });

  test("a policy or a key that cannot be read admits nothing, and says which", async () => {
    const { layout } = oneImage("signed too\n");
    const reference = `${registry.host}/signed/keys:1`;
    await pushSigned(team, layout.dir, "one", reference);
    const of = join(scratch(), "home");
    trust({ keyPath: join(of, "absent.gpg") }, of);
    const pulling = pullingInto(join(of, "state"), { HOME: of });
    expect(await refused(reference, pulling)).toMatchObject({
      why: expect.stringContaining("absent.gpg"),
      details: { reason: "unreadable-key" },
    });
    writeFileSync(join(of, ".config/containers/policy.json"), "{");
    expect(await refused(reference, pulling)).toMatchObject({
      next: expect.stringContaining("containers-policy.json"),
      details: { reason: "unreadable-policy" },
    });
  });

  test("sigstore's signatures beside the image count in the same way; where they cannot be checked they count for nothing", async () => {
    const { layout, made } = oneImage("sigstore\n");
    const of = join(scratch(), "home");
    mkdirSync(of);
    const key = sigstoreKey(join(of, "cosign.pub"));
    const signed = { type: "sigstoreSigned", keyPath: join(of, "cosign.pub") };
    const attached = { docker: { [registry.host]: { "use-sigstore-attachments": true } } };
    writePolicy(of, { [registry.host]: [{ ...signed, signedIdentity: { type: "matchRepository" } }] }, attached);
    const pulling = pullingInto(join(of, "state"), { HOME: of });
    const reference = `${registry.host}/sigstore/app:1`;
    await registry.push(layout.dir, "one", "sigstore/app:1");
    expect(await refused(reference, pulling)).toMatchObject({ details: { reason: "unsigned" } });

    /** Debian builds it without. */
    const checksSigstore = async (): Promise<boolean> => {
      const probe = pullingInto(join(of, "probe"), { HOME: of });
      const failure: unknown = await pullImage(reference, probe).catch((error: unknown) => error);
      const details = failure instanceof BulkheadError ? failure.details : {};
      return details["reason"] !== "no-sigstore";
    };
    const attach = async (by: typeof key, name: string): Promise<void> => {
      const own = new Layout(join(scratch(), "signature"));
      const tag = sigstoreSignature(own, by, made, name);
      await registry.push(own.dir, "signature", `sigstore/app:${tag}.sig`);
    };
    await attach(key, `${registry.host}/sigstore/app`);
    if (!(await checksSigstore())) {
      const told = { details: { reason: "no-sigstore" }, next: expect.stringContaining("signedBy") };
      expect(await refused(reference, pulling)).toMatchObject(told);
      return console.log("NOT TESTED: this machine's skopeo checks no sigstore signatures");
    }
    await attach(sigstoreKey(join(of, "other.pub")), `${registry.host}/sigstore/app`);
    expect(await refused(reference, pulling)).toMatchObject({ details: { reason: "other-signer" } });
    await attach(key, `${registry.host}/sigstore/other`);
    expect(await refused(reference, pulling)).toMatchObject({ details: { reason: "other-name" } });
    await attach(key, `${registry.host}/sigstore/app`);
    expect((await pullImage(reference, pulling)).digest).toBe(made.digest);
  });

  // Running needs more than pulling: agent, keeper and the base image that the small one is taken from.
  test.skipIf(cannotRun.length > 0)(
    `run takes what is signed and refuses what is not${cannotRun.length > 0 ? `: NOT TESTED, this machine lacks ${cannotRun.join(", ")}` : ""}`,
    async () => {
      const base = scratch();
      chmodSync(base, 0o755);
      const store = new ImageStore(stateDir);
      const root = join(base, "root");
      mkdirSync(root, { mode: 0o755 });
      smallDebian(store.resolve("base").rootfs, root);
      for (const path of ["etc", "proc", "dev", "sys", "tmp"]) mkdirSync(join(root, path));
      writeFileSync(join(root, "etc/passwd"), "root:x:0:0::/:/bin/sh\n");
      writeFileSync(join(root, "etc/group"), "root:x:0:\n");
      const layout = new Layout(join(base, "layout"));
      layout.tag("one", layout.image({ layers: [tarOf(root)], compression: "zstd" }));
      const run = async (name: string) => {
        const words = ["run", "--isolation", "container", "--image", `${registry.host}/${name}`];
        const own = { ...environment, BULKHEAD_RUN: join(base, "run"), HOME: home };
        return await start([...words, "--", "sh", "-c", "echo ran"], own).outcome;
      };
      await pushSigned(team, layout.dir, "one", `${registry.host}/runs/signed:1`);
      await registry.push(layout.dir, "one", "runs/unsigned:1");
      try {
        expect(await run("runs/signed:1")).toMatchObject({ code: 0, stdout: "ran\n", stderr: "" });
        const other = await run("runs/unsigned:1");
        expect(other).toMatchObject({ code: 121, stdout: "" });
        expect(other.stderr).toContain("it has no signature");
        expect(other.stderr).toContain("registries.d");
      } finally {
        const signed = `${registry.host}/runs/signed:1`;
        if (store.find(signed) !== null) await store.remove(signed);
        await collectGarbage(store);
      }
    },
  );
});
