import { randomBytes } from "node:crypto";
import { chmod, mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type ImageConfig, ImageStore, NOTHING_SAID } from "@bulkhead/engine/images";
import type { Context } from "./check.ts";
import { hostCommand } from "./host.ts";

/** A shell, what it needs, and two programs, out of the base image. */
const COPY = `cd "$1" && cp -a --parents usr/bin/dash usr/bin/sleep usr/bin/cat usr/lib64 \
  usr/lib/*-linux-gnu*/libc.so.6 usr/lib/*-linux-gnu*/ld-linux*.so.* "$2"`;

export interface SmallImage {
  readonly config: Partial<ImageConfig>;
  /** Contents by path; missing directories are made. */
  readonly files: Readonly<Record<string, string>>;
}

/** An image of a few files with the configuration given, in the store until the check has ended. @returns its name */
export async function smallImage({ open, defer }: Context, { config, files }: SmallImage): Promise<string> {
  const store = new ImageStore(open.outside?.stateDirectory ?? "");
  const name = `conformance-${randomBytes(6).toString("hex")}`;
  await using fresh = await store.begin({});
  const root = join(fresh.dir, "rootfs");
  await mkdir(root, { mode: 0o755 });
  await hostCommand(["sh", "-c", COPY, "sh", store.resolve("base").rootfs, root]);
  for (const link of ["bin", "lib", "lib64"]) await symlink(`usr/${link}`, join(root, link));
  await symlink("dash", join(root, "usr/bin/sh"));
  for (const place of ["dev", "proc", "sys", "tmp"]) await mkdir(join(root, place), { mode: 0o755 });
  await chmod(join(root, "tmp"), 0o1777);
  for (const [path, text] of Object.entries(files)) {
    await mkdir(join(root, path, ".."), { recursive: true });
    await writeFile(join(root, path), text);
  }
  const about = { architecture: process.arch, description: "for one check", sizeBytes: 0, fileCount: 0 };
  const whole: ImageConfig = { version: 1, env: {}, user: "", workdir: "", ...NOTHING_SAID, ...about, ...config };
  await store.commit(fresh.dir, `sha256:${randomBytes(32).toString("hex")}`, whole, name);
  defer(() => store.remove(name));
  return name;
}
