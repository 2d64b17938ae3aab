import { execFileSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { pullImage, verifyImages, type PullEvent } from "@bulkhead/engine/images";
import { Layout, tarOfFiles } from "./support/layout.ts";
import { lackingRegistry, startRegistry, type Registry } from "./support/registry.ts";
import { contents, pullingInto, scratch } from "./support/scene.ts";

const TIMEOUT_MS = 300_000;
/** Each costs a push, a fetch and a program. */
const MANY_LAYERS = 24;
const missing = lackingRegistry();
const lack = missing.length > 0 ? `: NOT TESTED, this machine lacks ${missing.join(", ")}` : "";
const OTHER_ARCH = process.arch === "x64" ? "arm64" : "amd64";
const OWN_ARCH = process.arch === "x64" ? "amd64" : process.arch;

// Set-up brings all of it; on a machine that has none of it nothing here can be true or false.
describe.skipIf(missing.length > 0)(`pulling from a registry${lack}`, { timeout: TIMEOUT_MS }, () => {
  let plain: Registry;
  let closed: Registry;

  beforeAll(async () => {
    plain = await startRegistry();
    closed = await startRegistry({ tls: true, auth: true });
  }, TIMEOUT_MS);
  afterAll(async () => {
    await plain?.[Symbol.asyncDispose]();
    await closed?.[Symbol.asyncDispose]();
  }, TIMEOUT_MS);

  test("over TLS with an authority of one's own and with credentials; without either it says what is missing", async () => {
    const dir = scratch();
    const layout = new Layout(join(dir, "layout"));
    const made = layout.image({ layers: [tarOfFiles({ "etc/name": "private\n" })] });
    layout.tag("one", made);
    await closed.push(layout.dir, "one", "team/private:1");
    const reference = `${closed.host}/team/private:1`;
    const trusted = { SSL_CERT_FILE: closed.caFile, HOME: dir };
    const pull = (extra: Readonly<Record<string, string>>) =>
      pullImage(reference, pullingInto(join(dir, "state"), extra));

    await expect(pull({ HOME: dir })).rejects.toMatchObject({
      code: "IMAGE_PULL_FAILED",
      details: { kind: "certificate" },
      next: expect.stringContaining("certs.d"),
    });
    await expect(pull(trusted)).rejects.toMatchObject({ code: "IMAGE_DENIED", next: expect.stringContaining("login") });
    expect(contents(join(dir, "state"))).toEqual({ images: [], layers: [], blobs: [], unfinished: [] });

    const image = await pull({ ...trusted, REGISTRY_AUTH_FILE: closed.authFile });
    expect(image).toMatchObject({ digest: made.digest, pulled: true, name: reference });
    expect(readFileSync(join(image.rootfs, "etc/name"), "utf8")).toBe("private\n");
  });

  test("authorities and credentials are found where a user's other tools look for them", async () => {
    const dir = scratch();
    const layout = new Layout(join(dir, "layout"));
    const made = layout.image({ layers: [tarOfFiles({ a: "a" })] });
    layout.tag("one", made);
    await closed.push(layout.dir, "one", "team/found:1");
    const certs = join(dir, "home/.config/containers/certs.d", closed.host);
    mkdirSync(certs, { recursive: true });
    writeFileSync(join(certs, "ca.crt"), readFileSync(closed.caFile));
    mkdirSync(join(dir, "home/.docker"));
    writeFileSync(join(dir, "home/.docker/config.json"), readFileSync(closed.authFile));
    const pulling = pullingInto(join(dir, "state"), { HOME: join(dir, "home") });
    expect((await pullImage(`${closed.host}/team/found:1`, pulling)).digest).toBe(made.digest);
  });

  test("of several machines' images that of this machine is taken; where there is none it says for which there are", async () => {
    const dir = scratch();
    const layout = new Layout(join(dir, "layout"));
    const own = layout.image({ layers: [tarOfFiles({ arch: "own" })] });
    const other = layout.image({ layers: [tarOfFiles({ arch: "other" })], architecture: OTHER_ARCH });
    layout.index("both", { [`linux/${OTHER_ARCH}`]: other, [`linux/${OWN_ARCH}`]: own });
    layout.index("foreign", { [`linux/${OTHER_ARCH}`]: other });
    layout.tag("single", other);
    for (const tag of ["both", "foreign", "single"]) await plain.push(layout.dir, tag, `arch:${tag}`);
    const pulling = pullingInto(join(dir, "state"));
    const image = await pullImage(`${plain.host}/arch:both`, pulling);
    expect(image.digest).toBe(own.digest);
    expect(readFileSync(join(image.rootfs, "arch"), "utf8")).toBe("own");
    for (const tag of ["foreign", "single"]) {
      await expect(pullImage(`${plain.host}/arch:${tag}`, pulling)).rejects.toMatchObject({
        code: "IMAGE_NOT_FOUND",
        why: expect.stringContaining(OTHER_ARCH),
      });
    }
    expect(contents(join(dir, "state")).images).toHaveLength(1);
  });

  test.each(["gzip", "zstd", "none"] as const)("layers that are compressed with: %s", async (compression) => {
    const dir = scratch();
    const layout = new Layout(join(dir, "layout"));
    const layers = [
      tarOfFiles({ "etc/kept": "below\n", "etc/gone": "x" }),
      tarOfFiles({ "etc/.wh.gone": "", top: "t" }),
    ];
    layout.tag("one", layout.image({ layers, compression }));
    await plain.push(layout.dir, "one", `compressed:${compression}`);
    const { rootfs } = await pullImage(`${plain.host}/compressed:${compression}`, pullingInto(join(dir, "state")));
    expect(readFileSync(join(rootfs, "etc/kept"), "utf8")).toBe("below\n");
    expect(lstatSync(join(rootfs, "etc/gone"), { throwIfNoEntry: false })).toBeUndefined();
    expect(readFileSync(join(rootfs, "top"), "utf8")).toBe("t");
  });

  test("an image in Docker's own form", async () => {
    const dir = scratch();
    const layout = new Layout(join(dir, "layout"));
    const config = { Cmd: ["/app"], User: "7" };
    layout.tag("one", layout.image({ layers: [tarOfFiles({ a: "docker" })], config }));
    await plain.push(layout.dir, "one", "docker:form", "v2s2");
    const pulling = pullingInto(join(dir, "state"));
    const image = await pullImage(`${plain.host}/docker:form`, pulling);
    expect(image.config).toMatchObject({ cmd: ["/app"], user: "7" });
    expect(readFileSync(join(image.rootfs, "a"), "utf8")).toBe("docker");
    const again = await pullImage(`${plain.host}/docker:form`, pulling, { missingOnly: false });
    expect(again.digest).toBe(image.digest);
    expect((await verifyImages([], pulling)).flatMap(({ problems }) => problems)).toEqual([]);
  });

  // Set-up brings it with what tests need.
  test.skipIf(!existsSync("/usr/bin/umoci"))(
    "an image that umoci has made, with what it removed and who owns what",
    async () => {
      const dir = scratch();
      const umoci = (...words: readonly string[]): Buffer => execFileSync("umoci", words, { cwd: dir });
      umoci("init", "--layout", "made");
      umoci("new", "--image", "made:base");
      umoci("unpack", "--image", "made:base", "bundle");
      const root = join(dir, "bundle/rootfs");
      for (const name of ["kept", "gone", "dir/in"]) {
        mkdirSync(join(root, name, ".."), { recursive: true });
        writeFileSync(join(root, name), name);
      }
      chownSync(join(root, "kept"), 12, 34);
      chmodSync(join(root, "kept"), 0o4751);
      linkSync(join(root, "kept"), join(root, "linked"));
      symlinkSync("../kept", join(root, "dir/link"));
      umoci("repack", "--image", "made:one", "bundle");
      umoci("unpack", "--image", "made:one", "second");
      rmSync(join(dir, "second/rootfs/gone"));
      rmSync(join(dir, "second/rootfs/dir"), { recursive: true });
      umoci("repack", "--image", "made:two", "second");
      umoci("config", "--image", "made:two", "--config.user", "12:34", "--config.cmd", "/kept");
      await plain.push(join(dir, "made"), "two", "umoci:two");
      const { rootfs, config } = await pullImage(`${plain.host}/umoci:two`, pullingInto(join(dir, "state")));
      expect(readdirSync(rootfs).toSorted()).toEqual(["kept", "linked"]);
      const kept = lstatSync(join(rootfs, "kept"));
      expect([kept.uid, kept.gid, kept.mode & 0o7777]).toEqual([12, 34, 0o4751]);
      expect(lstatSync(join(rootfs, "linked")).ino).toBe(kept.ino);
      expect(config).toMatchObject({ user: "12:34", cmd: ["/kept"] });
    },
  );

  test("many layers; those that images share are kept once, and fetched once", async () => {
    const dir = scratch();
    const layout = new Layout(join(dir, "layout"));
    const shared = Array.from({ length: MANY_LAYERS }, (_, i) => tarOfFiles({ [`shared/${i}`]: `${i}`.repeat(1000) }));
    for (const name of ["one", "two"]) {
      layout.tag(name, layout.image({ layers: [...shared, tarOfFiles({ own: name })], config: { Labels: { name } } }));
      await plain.push(layout.dir, name, `shared:${name}`);
    }
    const pulling = pullingInto(join(dir, "state"));
    const one = await pullImage(`${plain.host}/shared:one`, pulling);
    const states = new Map<string, string>();
    const onPull = (event: PullEvent): void => {
      if (event.kind === "layer" && event.state === "downloading") states.set(event.digest, event.state);
    };
    const two = await pullImage(`${plain.host}/shared:two`, pulling, { onPull });
    expect(states.size).toBeLessThanOrEqual(1);
    expect(contents(join(dir, "state")).layers).toHaveLength(MANY_LAYERS + 2);
    for (let i = 0; i < MANY_LAYERS; i += 1) {
      const [a, b] = [one, two].map(({ rootfs }) => lstatSync(join(rootfs, `shared/${i}`)).ino);
      expect(a).toBe(b);
    }
    expect([one, two].map(({ rootfs }) => readFileSync(join(rootfs, "own"), "utf8"))).toEqual(["one", "two"]);
  });

  test("the configuration comes along, checked", async () => {
    const dir = scratch();
    const layout = new Layout(join(dir, "layout"));
    const config = {
      ...{ Entrypoint: ["/bin/app"], Cmd: ["--serve"], Env: ["A=1", "B=x=y"], User: "app:app", WorkingDir: "/srv" },
      ...{ ExposedPorts: { "8080/tcp": {} }, Volumes: { "/data": {} }, StopSignal: "SIGINT", Labels: { a: "b" } },
    };
    layout.tag("one", layout.image({ layers: [tarOfFiles({ a: "a" })], config }));
    await plain.push(layout.dir, "one", "config:1");
    const image = await pullImage(`${plain.host}/config:1`, pullingInto(join(dir, "state")));
    expect(image.config).toMatchObject({
      ...{ entrypoint: ["/bin/app"], cmd: ["--serve"], user: "app:app", workdir: "/srv", stopSignal: "SIGINT" },
      ...{ exposedPorts: ["8080/tcp"], volumes: ["/data"], labels: { a: "b" } },
      env: { A: "1", B: "x=y", PATH: expect.stringContaining("/usr/bin") },
      origin: { reference: `${plain.host}/config:1` },
    });
  });

  test("a tag that moves is followed when the source is asked, and a digest never moves", async () => {
    const dir = scratch();
    const layout = new Layout(join(dir, "layout"));
    const [first, second] = ["first", "second"].map((name) => layout.image({ layers: [tarOfFiles({ name })] }));
    layout.tag("first", first!);
    layout.tag("second", second!);
    const reference = `${plain.host}/moving:latest`;
    const pulling = pullingInto(join(dir, "state"));
    await plain.push(layout.dir, "first", "moving:latest");
    expect((await pullImage(reference, pulling)).digest).toBe(first!.digest);
    await plain.push(layout.dir, "second", "moving:latest");
    expect(await pullImage(reference, pulling)).toMatchObject({ digest: first!.digest, pulled: false });
    expect((await pullImage(reference, pulling, { missingOnly: false })).digest).toBe(second!.digest);
    const pinned = await pullImage(`${plain.host}/moving@${first!.digest}`, pulling);
    expect(pinned.digest).toBe(first!.digest);
    expect(pulling.store.find(reference)?.digest).toBe(second!.digest);
  });

  test("plain HTTP is taken from loopback, and from elsewhere only when that is said", async () => {
    const dir = scratch();
    const layout = new Layout(join(dir, "layout"));
    layout.tag("one", layout.image({ layers: [tarOfFiles({ a: "a" })] }));
    await plain.push(layout.dir, "one", "http:1");
    // This machine too, but not by a name of its loopback.
    const elsewhere = plain.host.replace("localhost", "0.0.0.0");
    const state = join(dir, "state");
    await expect(pullImage(`${elsewhere}/http:1`, pullingInto(state))).rejects.toMatchObject({
      code: "IMAGE_PULL_FAILED",
      details: { kind: "plain-http" },
      next: expect.stringContaining("--insecure-registry"),
    });
    expect(await pullImage(`${elsewhere}/http:1`, pullingInto(state, {}, [elsewhere]))).toMatchObject({ pulled: true });
  });

  test("the host's signature policy and its mirrors are followed", async () => {
    const dir = scratch();
    const layout = new Layout(join(dir, "layout"));
    const made = layout.image({ layers: [tarOfFiles({ a: "a" })] });
    layout.tag("one", made);
    await plain.push(layout.dir, "one", "mirrored/app:1");
    const home = join(dir, "home/.config/containers");
    mkdirSync(home, { recursive: true });
    const mirror = `[[registry.mirror]]\nlocation = "${plain.host}/mirrored"\ninsecure = true\n`;
    writeFileSync(
      join(home, "registries.conf"),
      `[[registry]]\nprefix = "registry.invalid/team"\nlocation = "registry.invalid/team"\n${mirror}`,
    );
    const pulling = pullingInto(join(dir, "state"), { HOME: join(dir, "home") });
    expect((await pullImage("registry.invalid/team/app:1", pulling)).digest).toBe(made.digest);

    writeFileSync(join(home, "policy.json"), JSON.stringify({ default: [{ type: "reject" }] }));
    // Everything it is made of is there, and that is no reason not to ask.
    await expect(pullImage("registry.invalid/team/app:1", pulling, { missingOnly: false })).rejects.toMatchObject({
      code: "IMAGE_DENIED",
      details: { kind: "policy" },
    });
  });

  test("what is not there is said to be not there", async () => {
    const pulling = pullingInto(join(scratch(), "state"));
    await expect(pullImage(`${plain.host}/nothing/here:1`, pulling)).rejects.toMatchObject({ code: "IMAGE_NOT_FOUND" });
    await expect(pullImage("localhost:1/nothing:1", pulling)).rejects.toMatchObject({
      code: "IMAGE_PULL_FAILED",
      details: { kind: "unreachable" },
    });
  });
});

// As above.
describe.skipIf(missing.length > 0)(`images from this machine's disk${lack}`, { timeout: TIMEOUT_MS }, () => {
  test("a layout, by name or alone; an archive of it; a docker archive; and what changes is read again", async () => {
    const dir = scratch();
    const layout = new Layout(join(dir, "layout"));
    const made = layout.image({ layers: [tarOfFiles({ "etc/from": "layout\n" })] });
    layout.tag("one", made);
    const pulling = pullingInto(join(dir, "state"));
    expect(await pullImage(`oci:${layout.dir}:one`, pulling)).toMatchObject({ digest: made.digest, pulled: true });
    expect(await pullImage(`oci:${layout.dir}`, pulling)).toMatchObject({ digest: made.digest, pulled: true });
    expect(await pullImage(`oci:${layout.dir}`, pulling)).toMatchObject({ digest: made.digest, pulled: false });
    execFileSync("tar", ["--create", "--file", join(dir, "a.tar"), "--directory", layout.dir, "."]);
    expect((await pullImage(`oci-archive:${dir}/a.tar`, pulling)).digest).toBe(made.digest);
    execFileSync("skopeo", ["copy", "--quiet", `oci:${layout.dir}:one`, `docker-archive:${dir}/d.tar:local/app:1`]);
    const docker = await pullImage(`docker-archive:${dir}/d.tar`, pulling);
    expect(readFileSync(join(docker.rootfs, "etc/from"), "utf8")).toBe("layout\n");

    const again = new Layout(layout.dir);
    const changed = again.image({ layers: [tarOfFiles({ "etc/from": "changed\n" })] });
    again.tag("one", changed);
    expect(await pullImage(`oci:${layout.dir}:one`, pulling)).toMatchObject({ digest: changed.digest, pulled: true });
  });

  test("a plain directory, which is copied: what changes in it later changes nothing here", async () => {
    const dir = scratch();
    mkdirSync(join(dir, "root/etc"), { recursive: true });
    writeFileSync(join(dir, "root/etc/name"), "tree\n", { mode: 0o640 });
    const pulling = pullingInto(join(dir, "state"));
    const image = await pullImage(`rootfs:${dir}/root`, pulling);
    writeFileSync(join(dir, "root/etc/name"), "changed\n");
    expect(readFileSync(join(image.rootfs, "etc/name"), "utf8")).toBe("tree\n");
    expect(lstatSync(join(image.rootfs, "etc/name")).mode & 0o777).toBe(0o640);
    const changed = await pullImage(`rootfs:${dir}/root`, pulling, { missingOnly: false });
    expect(changed.digest).not.toBe(image.digest);
  });

  test("what is not there, or is no image, is refused", async () => {
    const dir = scratch();
    writeFileSync(join(dir, "text"), "no archive");
    mkdirSync(join(dir, "directory"));
    const pulling = pullingInto(join(dir, "state"));
    for (const kind of ["oci", "oci-archive", "docker-archive", "rootfs"]) {
      await expect(pullImage(`${kind}:${dir}/absent`, pulling), kind).rejects.toMatchObject({
        code: "IMAGE_NOT_FOUND",
      });
    }
    execFileSync("tar", ["--create", "--file", join(dir, "plain.tar"), "--directory", dir, "text"]);
    for (const kind of ["oci-archive", "docker-archive"]) {
      for (const name of ["text", "plain.tar", "directory"]) {
        await expect(pullImage(`${kind}:${dir}/${name}`, pulling), `${kind} ${name}`).rejects.toMatchObject({
          code: "IMAGE_REFUSED",
          details: { kind: "unreadable" },
          next: expect.stringContaining(kind),
        });
      }
    }
    for (const [name, next] of [
      ["oci:directory", "rootfs:"],
      ["oci:text", "oci-archive:"],
      ["rootfs:text", "oci-archive:"],
    ] as const) {
      await expect(pullImage(name.replace(":", `:${dir}/`), pulling), name).rejects.toMatchObject({
        code: "IMAGE_NOT_FOUND",
        next: expect.stringContaining(next),
      });
    }
    for (const name of ["base", "base-node"]) {
      await expect(pullImage(name, pulling)).rejects.toMatchObject({
        code: "SPEC_INVALID",
        next: expect.stringContaining("build-base"),
      });
    }
    await expect(pullImage(`dockerfile:${dir}`, pulling)).rejects.toMatchObject({
      code: "NOT_SUPPORTED",
      next: expect.stringContaining("buildah"),
    });
    expect(contents(join(dir, "state"))).toMatchObject({ images: [], layers: [], unfinished: [] });
  });
});
