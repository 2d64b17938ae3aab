import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import type { Runtime } from "../drivers/driver.ts";
import { fixedRelease, openCves } from "./known-cves.ts";

const elsewhere = mkdtempSync(join(tmpdir(), "bulkhead-cves-"));
afterAll(() => rmSync(elsewhere, { recursive: true }));

const runtime = (name: string, version: string, path = join(elsewhere, name)): Runtime => ({
  name,
  version,
  path,
  digest: "0".repeat(64),
});

test("a version before the fix has the vulnerability, the fix and what follows on its branch have not", async () => {
  expect(await openCves(runtime("runc", "1.1.11"))).toContain("CVE-2024-21626");
  expect(await openCves(runtime("runc", "1.1.12"))).not.toContain("CVE-2024-21626");
  expect(await openCves(runtime("runc", "1.2.7"))).toContain("CVE-2025-31133");
  expect(await openCves(runtime("runc", "1.2.8"))).toEqual(["CVE-2026-41579"]);
  expect(await openCves(runtime("runc", "1.3.6"))).toEqual([]);
  expect(await openCves(runtime("runc", "1.4.2"))).toEqual(["CVE-2026-41579"]);
  expect(await openCves(runtime("runc", "1.5.0"))).toEqual([]);
  expect(await openCves(runtime("qemu-system-x86_64", "8.1.5"))).toEqual(["CVE-2024-3446"]);
});

test("a release candidate comes before its release", async () => {
  expect(await openCves(runtime("runc", "1.4.0-rc.2"))).toContain("CVE-2025-52881");
  expect(await openCves(runtime("runc", "1.4.0-rc.3"))).not.toContain("CVE-2025-52881");
  expect(await openCves(runtime("runc", "1.2.0"))).not.toContain("CVE-2024-45310");
});

test("versions as Debian and gVisor write them", async () => {
  expect(await openCves(runtime("runc", "1.1.5+ds1"))).toContain("CVE-2025-52565");
  expect(await openCves(runtime("runsc", "0.0~20240729.0"))).toEqual(["CVE-2025-2713"]);
  expect(await openCves(runtime("runsc", "release-20250407.0"))).toEqual([]);
  expect(await openCves(runtime("qemu-system-x86_64", "7.2.22"))).toEqual([]);
});

test("of a version that cannot be read nothing good is supposed, and of another program nothing is known", async () => {
  expect(await openCves(runtime("runc", "unknown"))).toContain("CVE-2024-21626");
  expect(await openCves(runtime("kata", "3.0"))).toEqual([]);
});

test("what Debian's changelog names as fixed is fixed, in Debian's own binary alone", async () => {
  const own = await openCves(runtime("runc", "1.1.5+ds1", "/usr/sbin/runc"));
  expect(own).toContain("CVE-2025-31133");
  expect(own).not.toContain("CVE-2024-21626");
  expect(await openCves(runtime("runc", "1.1.5+ds1", "/usr/local/sbin/runc"))).toContain("CVE-2024-21626");
});

test("the release to install is one that has every fix", async () => {
  for (const name of ["runc", "crun", "runsc", "qemu-system-x86_64"]) {
    const version = fixedRelease(name);
    expect(version).not.toBeNull();
    expect(await openCves(runtime(name, version ?? ""))).toEqual([]);
  }
  expect(fixedRelease("kata")).toBeNull();
});
