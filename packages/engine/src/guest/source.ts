import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { askApt, exists, type Run } from "./workshop.ts";

/** Where it is not there, the machine's own list of trusted keys counts. */
const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MAX_SUITES = 16;
const TARGETS = "$(ORIGIN)|$(REPO_URI)|$(RELEASE)";

/** A Debian source package. The version has no epoch: that is how its files are named. */
export interface SourcePackage {
  readonly name: string;
  readonly version: string;
}

export interface ListsOptions {
  /** A release of Debian's, such as `trixie`, which takes the place of the machine's own. */
  readonly release: string | null;
  readonly scratch: string;
  readonly run: Run;
}

/**
 * Lines for a list of sources, from what apt says of the machine's own: one for each suite of Debian's, or, of another
 * release, its main and its security suite from where the machine has its own from.
 */
export function sourceLines(targets: string, keyring: string | null, release: string | null): readonly string[] {
  const option = keyring === null ? "" : `[signed-by=${keyring}] `;
  const suites = targets.split("\n").flatMap((line) => {
    const [origin, uri, suite = ""] = line.split("|");
    if (origin !== "Debian" || uri === undefined || !/^[\w-]+$/.test(suite)) return [];
    // Of these apt installs nothing by itself.
    if (suite.includes("-backports") || suite === "experimental") return [];
    if (release === null) return [`${uri} ${suite}`];
    if (suite.endsWith("-security")) return [`${uri} ${release}-security`];
    return suite.includes("-") ? [] : [`${uri} ${release}`];
  });
  return [...new Set(suites)]
    .slice(0, MAX_SUITES)
    .flatMap((suite) => [`deb ${option}${suite} main`, `deb-src ${option}${suite} main`]);
}

/** `'http://…/qemu_10.0+ds-1.dsc' qemu_10.0+ds-1.dsc 123 SHA256:…`, among others; null when there is none. */
export function parseVersion(name: string, uris: string): string | null {
  const [, version] = /^'[^']*' (?<file>\S+)\.dsc \d+ /m.exec(uris)?.groups?.["file"]?.split("_") ?? [];
  return version === undefined || !uris.includes(` ${name}_`) ? null : version;
}

/**
 * Signed lists of packages and sources of apt's own kind, in a directory of their own: the machine's apt learns nothing of
 * them, and they are as new as the mirror.
 */
export class DebianLists {
  readonly #apt: readonly string[];
  readonly #scratch: string;
  readonly #run: Run;

  private constructor(settings: Readonly<Record<string, string>>, { scratch, run }: ListsOptions) {
    this.#apt = Object.entries(settings).flatMap(([name, value]) => ["-o", `${name}=${value}`]);
    this.#scratch = scratch;
    this.#run = run;
  }

  /**
   * Downloads the lists.
   *
   * @throws BulkheadError HOST_UNSUPPORTED where apt has no source of Debian's, RUNTIME_FAILED, TIMEOUT, ABORTED
   */
  static async open(options: ListsOptions): Promise<DebianLists> {
    const { release, scratch } = options;
    const targets = ["Created-By: Packages", "Component: main"];
    const known = await askApt(["apt-get", "indextargets", "--format", TARGETS, ...targets]);
    const lines = sourceLines(known, (await exists(KEYRING)) ? KEYRING : null, release);
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
      "Acquire::Languages": "none",
      // The scratch directory is root's, which apt's own unprivileged user could not write to.
      "APT::Sandbox::User": "root",
    };
    const lists = new DebianLists(settings, options);
    await lists.#do(["apt-get", "update"]);
    return lists;
  }

  /** The newest version of a source package. @throws BulkheadError RUNTIME_FAILED where there is none, TIMEOUT, ABORTED */
  async newest(name: string): Promise<SourcePackage> {
    const asked = ["source", "--print-uris", "--only-source", name];
    const version = parseVersion(name, await askApt(["apt-get", ...this.#apt, "--quiet=2", ...asked]));
    if (version !== null) return { name, version };
    throw new BulkheadError("RUNTIME_FAILED", { what: `Debian's lists have no source package ${name}` });
  }

  /**
   * Downloads the newest version of a source package and unpacks it with Debian's patches.
   *
   * @param onUnpack called between the two
   * @returns the directory of the tree, in `scratch`
   * @throws BulkheadError RUNTIME_FAILED, TIMEOUT, ABORTED
   */
  async unpackSource(name: string, onUnpack: () => void): Promise<string> {
    await this.#do(["apt-get", "source", "--download-only", "--only-source", name]);
    const description = await this.#file(`${name}_`, ".dsc");
    onUnpack();
    await this.#run(["dpkg-source", "--extract", description, name], this.#scratch);
    return join(this.#scratch, name);
  }

  /**
   * Downloads the newest version of a package and unpacks its files; none of its scripts runs.
   *
   * @returns the directory they are in, in `scratch`
   * @throws BulkheadError RUNTIME_FAILED, TIMEOUT, ABORTED
   */
  async unpackPackage(name: string): Promise<string> {
    await this.#do(["apt-get", "download", name]);
    const target = join(this.#scratch, `${name}-root`);
    await this.#run(["dpkg-deb", "--extract", await this.#file(`${name}_`, ".deb"), target], this.#scratch);
    return target;
  }

  async #do([program = "", ...asked]: readonly string[]): Promise<void> {
    await this.#run([program, ...this.#apt, ...asked], this.#scratch);
  }

  async #file(prefix: string, suffix: string): Promise<string> {
    const found = (await readdir(this.#scratch)).find((file) => file.startsWith(prefix) && file.endsWith(suffix));
    if (found !== undefined) return found;
    throw new BulkheadError("RUNTIME_FAILED", { what: `apt-get gave no ${prefix}*${suffix}` });
  }
}
