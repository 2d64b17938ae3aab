import { readFile, stat } from "node:fs/promises";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import type { Runtime } from "../drivers/driver.ts";

interface KnownCve {
  readonly id: string;
  /** First fixed release of each branch (major.minor) that got one, oldest first. */
  readonly fixed: readonly string[];
}

/**
 * What would let code inside reach outside, of what we use of each runtime. Sources: the projects' own advisories.
 * CVE-2025-24965 of crun (krun handler only) and what concerns QEMU's devices that no guest of ours has are left out.
 */
const KNOWN: Readonly<Record<string, readonly KnownCve[]>> = {
  runc: [
    { id: "CVE-2024-21626", fixed: ["1.1.12"] },
    { id: "CVE-2024-45310", fixed: ["1.1.14", "1.2.0-rc.3"] },
    { id: "CVE-2025-31133", fixed: ["1.2.8", "1.3.3", "1.4.0-rc.3"] },
    { id: "CVE-2025-52565", fixed: ["1.2.8", "1.3.3", "1.4.0-rc.3"] },
    { id: "CVE-2025-52881", fixed: ["1.2.8", "1.3.3", "1.4.0-rc.3"] },
    { id: "CVE-2026-41579", fixed: ["1.3.6", "1.4.3"] },
  ],
  crun: [{ id: "CVE-2022-27650", fixed: ["1.4.4"] }],
  // The advisory names a commit and no release: the first release after it counts.
  runsc: [{ id: "CVE-2025-2713", fixed: ["20250328.0"] }],
  "qemu-system-x86_64": [
    { id: "CVE-2023-2861", fixed: ["7.2.4", "8.0.3", "8.1.0"] },
    { id: "CVE-2024-3446", fixed: ["7.2.11", "8.2.3", "9.0.0"] },
  ],
};

/** Debian's package of each, whose changelog names what was fixed without a new version. */
const PACKAGES: Readonly<Record<string, string>> = { "qemu-system-x86_64": "qemu-system-x86" };
const PACKAGED = /^\/usr\/s?bin\//;
const CHANGELOG_MAX_BYTES = 1024 * 1024;
const CHANGELOG_MAX_TEXT = 16 * CHANGELOG_MAX_BYTES;

/** A release sorts after its candidates. */
function parts(version: string): readonly number[] | null {
  const dated = /(\d{8})\.(\d+)/.exec(version);
  if (dated !== null) return [Number(dated[1]), Number(dated[2]), 0, Infinity];
  const found = /(\d+)\.(\d+)(?:\.(\d+))?(?:-rc\.?(\d+))?/.exec(version);
  if (found === null) return null;
  const [, major, minor, patch = "0", candidate] = found;
  return [Number(major), Number(minor), Number(patch), candidate === undefined ? Infinity : Number(candidate)];
}

function compare(a: readonly number[], b: readonly number[], length = a.length): number {
  for (let i = 0; i < length; i += 1) {
    const [x = 0, y = 0] = [a[i], b[i]];
    if (x !== y) return x < y ? -1 : 1;
  }
  return 0;
}

/** A branch without a fix of its own is fixed only when it began after the last one that got it. */
function hasFix(version: string, fixed: readonly string[]): boolean {
  const own = parts(version);
  const fixes = fixed.map(parts).filter((one) => one !== null);
  const last = fixes.at(-1);
  // Of a version that cannot be read nothing good is supposed.
  if (own === null || last === undefined) return false;
  const branch = fixes.find((fix) => compare(own, fix, 2) === 0);
  return compare(own, branch ?? last) >= 0;
}

async function changelog(runtime: Runtime): Promise<string> {
  if (!PACKAGED.test(runtime.path)) return "";
  const path = `/usr/share/doc/${PACKAGES[runtime.name] ?? runtime.name}/changelog.Debian.gz`;
  try {
    if ((await stat(path)).size > CHANGELOG_MAX_BYTES) return "";
    const text = await promisify(gunzip)(await readFile(path), { maxOutputLength: CHANGELOG_MAX_TEXT });
    return text.toString("utf8");
  } catch {
    return "";
  }
}

/**
 * Known vulnerabilities of this runtime that neither its version nor, where it is Debian's, its changelog says are fixed.
 * By their ids, oldest first; empty when there is none we know of.
 */
export async function openCves(runtime: Runtime): Promise<readonly string[]> {
  const byVersion = (KNOWN[runtime.name] ?? []).filter(({ fixed }) => !hasFix(runtime.version, fixed));
  if (byVersion.length === 0) return [];
  const text = await changelog(runtime);
  return byVersion.filter(({ id }) => !text.includes(id)).map(({ id }) => id);
}

/** The newest release that has all the fixes known of this runtime. */
export function fixedRelease(name: string): string | null {
  const last = (KNOWN[name] ?? []).map(({ fixed }) => fixed.at(-1) ?? "");
  const newest = last.reduce((a, b) => (compare(parts(a) ?? [], parts(b) ?? [], 4) >= 0 ? a : b), "0.0");
  return newest === "0.0" ? null : newest;
}
