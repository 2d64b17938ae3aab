import { fileURLToPath } from "node:url";
import { isIP, isIPv4, isIPv6 } from "node:net";
import { isAbsolute, join } from "node:path";
import { BulkheadError, parseBytes, parseDuration, parseWhole } from "@bulkhead/contract";
import { DEFAULT_LIMITS, type ImageLimits } from "../image/limits.ts";

const DEFAULT_STATE = "/var/lib/bulkhead";
const DEFAULT_RUN = "/run/bulkhead";
const DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const REPOSITORY = fileURLToPath(new URL("../../../../", import.meta.url));

/** Where things are on this machine. All paths are absolute. */
export interface Config {
  /** Lasting state: images, runtimes, caches. */
  readonly state: string;
  /** Run state, lost at reboot. Every directory above it must be passable (mode x) for other users. */
  readonly run: string;
  readonly agent: string;
  readonly keeper: string;
  /** The program that unpacks images. */
  readonly layers: string;
  /** Where runtimes are looked for, in order. */
  readonly searchPath: readonly string[];
  /** Name servers to ask for sandboxes: `192.0.2.53`, `192.0.2.53:5353`, `[2001:db8::53]:53`. Empty: the host's. */
  readonly resolvers: readonly string[];
  /** Runtimes with known vulnerabilities that are not fixed in them are not used. */
  readonly refuseKnownCves: boolean;
  /** What an image may cost at most. */
  readonly imageLimits: ImageLimits;
  /** All that the program which fetches images is told of this process's environment. */
  readonly pullEnvironment: Readonly<Record<string, string>>;
}

/**
 * Where credentials, mirrors, authorities and proxies are looked for; the rest of the environment is no business of a
 * program that reads what registries send.
 */
const PULL_VARIABLES = [
  ...["HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG"],
  ...["SSL_CERT_FILE", "SSL_CERT_DIR"],
  ...["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"],
];

function pullEnvironment(environment: NodeJS.ProcessEnv): Readonly<Record<string, string>> {
  const passed = PULL_VARIABLES.flatMap((name) => {
    const value = environment[name];
    return value === undefined || value === "" ? [] : [[name, value] as const];
  });
  return { PATH: DEFAULT_PATH, LC_ALL: "C.UTF-8", ...Object.fromEntries(passed) };
}

function imageLimits(text: string): ImageLimits {
  const given = text
    .split(",")
    .filter(Boolean)
    .map((part): readonly [string, number] => {
      const [name = "", value = ""] = part.split("=", 2);
      const field = `${name} of BULKHEAD_IMAGE_LIMITS`;
      if (!Object.hasOwn(DEFAULT_LIMITS, name)) {
        throw new BulkheadError("SPEC_INVALID", {
          what: `BULKHEAD_IMAGE_LIMITS has no limit ${JSON.stringify(name)}`,
          why: `its limits are: ${Object.keys(DEFAULT_LIMITS).join(", ")}`,
          next: "write it like BULKHEAD_IMAGE_LIMITS=unpackedBytes=100g,entries=8000000",
        });
      }
      const read = name.endsWith("Bytes") ? parseBytes : name.endsWith("Ms") ? parseDuration : parseWhole;
      return [name, read(value, field)];
    });
  return { ...DEFAULT_LIMITS, ...Object.fromEntries(given) };
}

function resolver(text: string): string {
  const { four, six, port = "53" } = /^(?:(?<four>[\d.]+)|\[(?<six>.+)\])(?::(?<port>\d+))?$/.exec(text)?.groups ?? {};
  const addressed = isIP(text) !== 0 || isIPv4(four ?? "") || isIPv6(six ?? "");
  if (addressed && Number(port) > 0 && Number(port) < 65_536) return text;
  throw new BulkheadError("SPEC_INVALID", {
    what: `BULKHEAD_RESOLVERS has ${JSON.stringify(text)}, which is not a name server's address`,
    next: "write addresses with commas between: 192.0.2.53,[2001:db8::53]:5353",
  });
}

/**
 * The only reader of the environment: BULKHEAD_STATE, BULKHEAD_RUN, BULKHEAD_AGENT, BULKHEAD_KEEPER, BULKHEAD_LAYERS,
 * BULKHEAD_RESOLVERS (with commas between), BULKHEAD_REFUSE_KNOWN_CVES, PATH.
 *
 * @throws BulkheadError SPEC_INVALID when a path is not absolute, a name server no address, or what is yes or no is
 * neither 1 nor 0.
 */
export function readConfig(environment: NodeJS.ProcessEnv = process.env): Config {
  const path = (name: string, otherwise: string): string => {
    const value = environment[name] || otherwise;
    if (isAbsolute(value)) return value;
    throw new BulkheadError("SPEC_INVALID", {
      what: `${name} is ${JSON.stringify(value)}, which is not an absolute path`,
      next: `set ${name} to an absolute path or leave it out`,
    });
  };
  const yes = (name: string): boolean => {
    const value = environment[name] || "0";
    if (value === "1" || value === "0") return value === "1";
    throw new BulkheadError("SPEC_INVALID", {
      what: `${name} is ${JSON.stringify(value)}, which is neither 1 nor 0`,
      next: `set ${name} to 1 for yes, or leave it out`,
    });
  };
  const built = (name: string): string => join(REPOSITORY, "target", "release", name);
  return {
    state: path("BULKHEAD_STATE", DEFAULT_STATE),
    run: path("BULKHEAD_RUN", DEFAULT_RUN),
    agent: path("BULKHEAD_AGENT", built("bulkhead-agent")),
    keeper: path("BULKHEAD_KEEPER", built("bulkhead-keeper")),
    layers: path("BULKHEAD_LAYERS", built("bulkhead-layers")),
    resolvers: (environment["BULKHEAD_RESOLVERS"] ?? "").split(",").filter(Boolean).map(resolver),
    searchPath: (environment["PATH"] || DEFAULT_PATH).split(":").filter((entry) => isAbsolute(entry)),
    refuseKnownCves: yes("BULKHEAD_REFUSE_KNOWN_CVES"),
    imageLimits: imageLimits(environment["BULKHEAD_IMAGE_LIMITS"] ?? ""),
    pullEnvironment: pullEnvironment(environment),
  };
}
