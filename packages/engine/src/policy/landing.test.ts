import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { landings } from "./landing.ts";

const rootfs = mkdtempSync(join(tmpdir(), "bulkhead-landing-"));
afterAll(() => rmSync(rootfs, { recursive: true, force: true }));

const LINKS = {
  bin: "usr/bin",
  "var/run": "/run",
  "srv/up": "../../../../run",
  kernel: "/proc",
  "deep/one": "two",
  "deep/two": "../kernel/sys",
  devices: "./dev/../dev",
  whole: "/",
  round: "/round",
  agent: "/.bulkhead",
};
for (const directory of ["usr/bin", "var", "srv", "run", "deep"])
  mkdirSync(join(rootfs, directory), { recursive: true });
for (const [path, to] of Object.entries(LINKS)) symlinkSync(to, join(rootfs, path));

const land = async (target: string): Promise<string> =>
  (await landings([{ source: "/srv", target, readOnly: true }], rootfs))[0]?.target ?? "";

test.each([
  ["/mnt/new/deep", "/mnt/new/deep"],
  ["/bin/tool", "/usr/bin/tool"],
  ["/var/run/app", "/run/app"],
  ["/srv/up/app", "/run/app"],
  ["/mnt/../proc", "/mnt/../proc"],
])("%s is mounted at %s", async (target, real) => {
  expect(await land(target)).toBe(real);
});

test.each([
  "/kernel",
  "/kernel/sys/kernel",
  "/deep/one/kernel",
  "/devices",
  "/whole",
  "/whole/proc",
  "/agent",
  "/round/x",
])("%s is refused: links in the image lead it to what belongs to the boundary, or nowhere", async (target) => {
  await expect(land(target)).rejects.toMatchObject({ code: "MOUNT_INVALID", details: { target } });
});
