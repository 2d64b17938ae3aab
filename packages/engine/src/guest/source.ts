import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { aptCandidate, askApt, exists, type Run } from "./workshop.ts";

/** Where it is not there, the machine's own list of trusted keys counts. */
const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MAX_SUITES = 16;

/** A Debian source package. */
export interface SourcePackage {
  readonly name: string;
  readonly version: string;
}

/** What the version of `binary` that apt would install was built from, null when apt knows none. Nothing is downloaded. */
export async function sourceOf(binary: string, signal?: AbortSignal): Promise<SourcePackage | null> {
  const candidate = await aptCandidate(binary, signal);
  if (candidate === null) return null;
  return parseSource(binary, candidate, await askApt(["apt-cache", "show", `${binary}=${candidate}`], signal));
}

/** `Source: qemu (1:7.2+dfsg-7)`; without a version it is the binary's, without the field the name is too. */
export function parseSource(binary: string, candidate: string, shown: string): SourcePackage {
  const [, name = binary, version = candidate] = /^Source: (\S+)(?: \((\S+)\))?$/m.exec(shown) ?? [];
  return { name, version };
}

/** Lines for a list of sources, from what apt says of the machine's own: one for each suite of Debian's. */
export function sourceLines(targets: string, keyring: string | null): readonly string[] {
  const option = keyring === null ? "" : `[signed-by=${keyring}] `;
  const lines = targets.split("\n").flatMap((line) => {
    const [origin, uri, suite] = line.split("|");
    return origin === "Debian" && uri !== undefined && /^[\w-]+$/.test(suite ?? "")
      ? [`deb-src ${option}${uri} ${suite} main`]
      : [];
  });
  return [...new Set(lines)].slice(0, MAX_SUITES);
}

/**
 * Downloads a source package and unpacks it with Debian's patches. apt checks it against signed lists of its own, which are in
 * `scratch`: the machine's apt learns nothing of them.
 *
 * @returns the directory of the tree, in `scratch`
 * @throws BulkheadError HOST_UNSUPPORTED where apt has no source of Debian's, RUNTIME_FAILED, TIMEOUT, ABORTED
 */
export async function unpackSource(source: SourcePackage, scratch: string, run: Run): Promise<string> {
  const format = "$(ORIGIN)|$(REPO_URI)|$(RELEASE)";
  const targets = await askApt([
    "apt-get",
    "indextargets",
    "--format",
    format,
    "Created-By: Packages",
    "Component: main",
  ]);
  const lines = sourceLines(targets, (await exists(KEYRING)) ? KEYRING : null);
  if (lines.length === 0) {
    throw new BulkheadError("HOST_UNSUPPORTED", {
      what: "apt has no source of Debian's, so there is nothing to build from",
      next: "add Debian to apt's sources, or build nothing: bulkhead setup microvm --stock-kernel",
    });
  }
  const at = (name: string): string => join(scratch, name);
  await writeFile(at("sources.list"), `${lines.join("\n")}\n`);
  await mkdir(at("lists/partial"), { recursive: true });
  await mkdir(at("cache/archives/partial"), { recursive: true });
  const settings = {
    "Dir::Etc::SourceList": at("sources.list"),
    "Dir::Etc::SourceParts": "/dev/null",
    "Dir::State::Lists": at("lists"),
    "Dir::Cache": at("cache"),
    "APT::Default-Release": "",
    // The scratch directory is root's, which apt's own unprivileged user could not write to.
    "APT::Sandbox::User": "root",
  };
  const apt = ["apt-get", ...Object.entries(settings).flatMap(([name, value]) => ["-o", `${name}=${value}`])];
  await run([...apt, "update"], scratch);
  const { name, version } = source;
  await run([...apt, "source", "--download-only", "--only-source", `${name}=${version}`], scratch);
  const description = (await readdir(scratch)).find((file) => file.endsWith(".dsc"));
  if (description === undefined) {
    throw new BulkheadError("RUNTIME_FAILED", { what: `apt-get source gave nothing for ${name} ${version}` });
  }
  await run(["dpkg-source", "--extract", description, "tree"], scratch);
  return at("tree");
}
