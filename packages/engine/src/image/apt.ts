import { readFileSync } from "node:fs";
import { BulkheadError } from "@bulkhead/contract";
import { runChecked } from "../system/process.ts";

const APT_TIMEOUT_MS = 30_000;
const TARGETS = "$(CREATED_BY)|$(ORIGIN)|$(RELEASE)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)";
/** What of the host's apt settings decides whether its mirror can be reached and is believed. */
const FORWARDED = /^Acquire::(?:https?::Proxy(?:::.*)?|Check-Valid-Until|Check-Date|https?::Timeout|Retries) /;

/** Where this host gets its Debian packages from. */
export interface AptOrigin {
  /** `bookworm` */
  readonly suite: string;
  /** One-line sources, main only, as the host has them, credentials included: not to be printed or kept. */
  readonly sources: readonly string[];
  /** Lines of apt configuration needed to reach the sources from here. */
  readonly options: readonly string[];
}

/**
 * Reads this host's own apt configuration: nothing is guessed, no mirror is built in.
 *
 * @throws BulkheadError HOST_UNSUPPORTED when this is not Debian or its apt knows no Debian source
 */
export async function aptOrigin(signal?: AbortSignal): Promise<AptOrigin> {
  const options = { timeoutMs: APT_TIMEOUT_MS, failure: "HOST_UNSUPPORTED", ...(signal && { signal }) } as const;
  const suite = debianCodename(readFileSync("/etc/os-release", "utf8"));
  const targets = await runChecked(["apt-get", "indextargets", "--format", TARGETS], options);
  const config = await runChecked(["apt-config", "dump", "--format", '%F "%v";%n'], options);
  const sources = parseSources(targets.stdout, suite);
  if (sources.length === 0) {
    throw new BulkheadError("HOST_UNSUPPORTED", {
      what: `apt on this host has no source for Debian ${suite}`,
      next: "add one below /etc/apt/sources.list.d and run apt-get update",
    });
  }
  return { suite, sources, options: config.stdout.split("\n").filter((line) => FORWARDED.test(line)) };
}

/** @throws BulkheadError HOST_UNSUPPORTED when the file does not describe a Debian release */
export function debianCodename(osRelease: string): string {
  const value = (key: string): string => new RegExp(`^${key}="?([a-z0-9.-]*)"?$`, "m").exec(osRelease)?.[1] ?? "";
  const codename = value("VERSION_CODENAME");
  if (value("ID") === "debian" && codename !== "") return codename;
  throw new BulkheadError("HOST_UNSUPPORTED", {
    what: "the base image can be built on Debian only",
    why: `this is ${value("ID") || "an unknown system"} ${codename}`.trimEnd(),
    next: "build it on a Debian machine and copy its state directory's images folder here",
  });
}

/** Index targets, one a line in the shape of `TARGETS`, to one-line sources of this release and its updates. */
export function parseSources(targets: string, suite: string): readonly string[] {
  const wanted = new Set([suite, `${suite}-updates`, `${suite}-security`]);
  const lines = targets.split("\n").flatMap((line) => {
    const [createdBy, origin, release, codename, component, uri] = line.split("|");
    if (createdBy !== "Packages" || component !== "main" || uri === undefined) return [];
    // Without downloaded lists apt leaves the fields that come from them unfilled; the release is from the sources.
    if (origin !== "Debian" && origin?.startsWith("$(") !== true) return [];
    if (!wanted.has(release ?? "") && !wanted.has(codename ?? "")) return [];
    return [`deb ${uri} ${release} main`];
  });
  return [...new Set(lines)];
}

/** A source line as it may stand in an image: without the name and password of a private mirror. */
export function withoutCredentials(source: string): string {
  return source.replace(/(\w+:\/\/)[^/@\s]*@/, "$1");
}
