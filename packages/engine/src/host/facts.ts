import { randomBytes } from "node:crypto";
import { chmod, copyFile, mkdir, readFile, readdir, realpath, rename, stat, symlink } from "node:fs/promises";
import { availableParallelism, totalmem } from "node:os";
import { basename, dirname, join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import type { Runtime } from "../drivers/driver.ts";
import type { Config } from "./config.ts";
import { FileCache } from "./file-cache.ts";
import { findRuntimes } from "./runtimes.ts";
import { securityFacts, type SecurityFacts } from "./security-modules.ts";
import { preferredKernel, type KernelRecord } from "../guest/kernel-index.ts";

export type FoundRuntime =
  | { readonly kind: "found"; readonly runtime: Runtime }
  | { readonly kind: "absent" }
  | { readonly kind: "broken"; readonly path: string; readonly why: string }
  /** It is there and runs, and the operator does not want it used. One line each. */
  | { readonly kind: "refused"; readonly path: string; readonly why: string; readonly remedy: string };

/** What the engine knows of this machine; gathered once per process, cheap, never by starting a sandbox. */
export interface HostFacts {
  readonly kernelRelease: string;
  readonly bootId: string;
  readonly arch: string;
  readonly uid: number;
  readonly cpus: number;
  readonly memoryBytes: number;
  readonly cgroup: {
    /** `hybrid` is v1 controllers with a v2 hierarchy that holds none of them. */
    readonly mode: "v1" | "hybrid" | "v2";
    readonly controllers: readonly string[];
    /** Swap can be limited along with memory. */
    readonly swap: boolean;
  };
  /** Files of this host can be disks of its kernel. */
  readonly loopDevices: boolean;
  readonly security: SecurityFacts;
  readonly namespaces: readonly string[];
  /** Hard limits of this process, by OCI name; a sandbox's rlimits cannot exceed them without CAP_SYS_RESOURCE. */
  readonly rlimits: Readonly<Record<string, { readonly soft: number; readonly hard: number }>>;
  /** The kernel that guests start; null when none is set up. */
  readonly guestKernel: KernelRecord | null;
  /** By name: crun, runc, runsc, qemu-system-x86_64. */
  readonly runtimes: Readonly<Record<string, FoundRuntime>>;
  /** sha256 of our own binaries, hex; empty when the file is not there. */
  readonly digests: { readonly agent: string; readonly keeper: string };
  readonly paths: {
    /** Lasting state: images, runtimes, caches. */
    readonly state: string;
    /** Run state, lost at reboot. */
    readonly run: string;
    readonly agent: string;
    readonly keeper: string;
    /** The program that unpacks images. */
    readonly layers: string;
    /** A directory that holds only `.bulkhead/agent`: the lowest layer of every sandbox. */
    readonly layer: string;
    /** As `layer`, with the agent as `/usr/bin/sudo` too. */
    readonly sudoLayer: string;
  };
}

const CGROUP_ROOT = "/sys/fs/cgroup";
/** The agent's path inside, below the layer's root. */
export const AGENT_INSIDE = "/.bulkhead/agent";
const SUDO_INSIDE = "/usr/bin/sudo";

/** "Max open files   20000   20000   files" in /proc/self/limits, to OCI's names. */
const RLIMITS: Readonly<Record<string, string>> = {
  "Max open files": "RLIMIT_NOFILE",
  "Max processes": "RLIMIT_NPROC",
  "Max core file size": "RLIMIT_CORE",
  "Max locked memory": "RLIMIT_MEMLOCK",
  "Max msgqueue size": "RLIMIT_MSGQUEUE",
  "Max pending signals": "RLIMIT_SIGPENDING",
};

const readLine = async (path: string): Promise<string> => (await readFile(path, "utf8")).trim();

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );

async function cgroupFacts(): Promise<HostFacts["cgroup"]> {
  const unified = join(CGROUP_ROOT, "cgroup.controllers");
  if (await exists(unified)) {
    const controllers = (await readLine(unified)).split(" ").filter((name) => name !== "");
    return { mode: "v2", controllers, swap: true };
  }
  const lines = (await readLine("/proc/self/cgroup")).split("\n").map((line) => line.split(":")[1] ?? "");
  const controllers = lines.flatMap((names) => names.split(",")).filter((name) => name !== "" && !name.includes("="));
  const swap = await exists(join(CGROUP_ROOT, "memory/memory.memsw.limit_in_bytes"));
  return { mode: lines.includes("") ? "hybrid" : "v1", controllers, swap };
}

async function rlimitFacts(): Promise<HostFacts["rlimits"]> {
  const number = (text: string | undefined): number =>
    text === "unlimited" ? Number.POSITIVE_INFINITY : Number(text ?? 0);
  const found: Record<string, { soft: number; hard: number }> = {};
  for (const line of (await readFile("/proc/self/limits", "utf8")).split("\n")) {
    const label = line.slice(0, 26).trim();
    const [soft, hard] = line.slice(26).trim().split(/\s+/);
    const name = RLIMITS[label];
    if (name !== undefined) found[name] = { soft: number(soft), hard: number(hard) };
  }
  return found;
}

async function linkSudo(layer: string): Promise<void> {
  const link = join(layer, SUDO_INSIDE);
  await mkdir(dirname(link), { recursive: true, mode: 0o755 });
  await symlink(AGENT_INSIDE, link).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "EEXIST") throw error;
  });
}

/** Puts the agent where a mount can find it alone in a directory; done once for each agent. */
async function prepareLayer(state: string, agent: string, digest: string, sudo: boolean): Promise<string> {
  const layer = join(state, "layers", `${digest.slice(0, 16) || "no-agent"}${sudo ? "-sudo" : ""}`);
  const place = join(layer, AGENT_INSIDE);
  if (digest === "" || (await exists(place))) return layer;
  const draft = join(state, "layers", `agent.${randomBytes(6).toString("hex")}`);
  try {
    await mkdir(dirname(place), { recursive: true, mode: 0o755 });
    await copyFile(agent, draft);
    await chmod(draft, 0o555);
    // Before the agent, whose presence says that the layer is whole.
    if (sudo) await linkSudo(layer);
    // Another process that was faster has put the same content there.
    await rename(draft, place);
  } catch (cause) {
    throw new BulkheadError("HOST_RESOURCE", {
      what: `the state directory ${state} cannot be written`,
      why: cause instanceof Error ? cause.message : String(cause),
      next: "run as root, or set BULKHEAD_STATE to a directory you can write",
      cause,
    });
  }
  return layer;
}

async function withoutKnownCves(found: HostFacts["runtimes"]): Promise<HostFacts["runtimes"]> {
  const { openCves, fixedRelease } = await import("./known-cves.ts");
  const judged = async (one: FoundRuntime): Promise<FoundRuntime> => {
    if (one.kind !== "found") return one;
    const { name, version, path } = one.runtime;
    const cves = await openCves(one.runtime);
    if (cves.length === 0) return one;
    const why = `${name} ${version} is refused: ${cves.join(", ")} ${cves.length === 1 ? "is" : "are"} not fixed in it`;
    const remedy = `install ${name} ${fixedRelease(name)} or newer, or a distribution's package that names these as fixed`;
    return { kind: "refused", path, why, remedy };
  };
  const entries = Object.entries(found).map(async ([name, one]) => [name, await judged(one)] as const);
  return Object.fromEntries(await Promise.all(entries));
}

/** `path` without symbolic links; what is not there yet stays as it is written. */
async function withoutLinks(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch {
    return join(await withoutLinks(dirname(path)), basename(path));
  }
}

/**
 * Reads the machine. Nothing is started but an unknown runtime, for its version, and once a boot the agent, for Landlock's.
 *
 * @throws BulkheadError HOST_UNSUPPORTED where this is not Linux; HOST_RESOURCE when the state directory is not writable.
 */
export async function gatherFacts(config: Config, signal?: AbortSignal): Promise<HostFacts> {
  if (process.platform !== "linux") {
    throw new BulkheadError("HOST_UNSUPPORTED", {
      what: `sandboxes cannot be made on ${process.platform}`,
      next: "use a Linux machine or virtual machine",
    });
  }
  // The keeper follows no link on the way to what it mounts, and images and layers are mounted from here.
  const state = await withoutLinks(config.state);
  const cache = await FileCache.open(join(state, "cache", "files.json"));
  const digest = async (path: string): Promise<string> =>
    (await exists(path)) ? (await cache.identify(path)).digest : "";
  const [agent, keeper, runtimes] = await Promise.all([
    digest(config.agent),
    digest(config.keeper),
    findRuntimes(state, config.searchPath, cache, signal).then((found) =>
      config.refuseKnownCves ? withoutKnownCves(found) : found,
    ),
  ]);
  const [layer, sudoLayer] = await Promise.all([
    prepareLayer(state, config.agent, agent, false),
    prepareLayer(state, config.agent, agent, true),
    cache.save(),
  ]);
  const bootId = await readLine("/proc/sys/kernel/random/boot_id");
  const question = { state, searchPath: config.searchPath, bootId, agent: config.agent, agentDigest: agent };
  return {
    kernelRelease: await readLine("/proc/sys/kernel/osrelease"),
    bootId,
    arch: process.arch,
    uid: process.getuid?.() ?? -1,
    cpus: availableParallelism(),
    memoryBytes: totalmem(),
    cgroup: await cgroupFacts(),
    loopDevices: await exists("/dev/loop-control"),
    security: await securityFacts(signal === undefined ? question : { ...question, signal }),
    namespaces: (await readdir("/proc/self/ns")).filter((name) => !name.endsWith("_for_children")),
    rlimits: await rlimitFacts(),
    guestKernel: await preferredKernel(state),
    runtimes,
    digests: { agent, keeper },
    paths: {
      ...{ state, run: config.run, agent: config.agent, keeper: config.keeper, layers: config.layers },
      ...{ layer, sudoLayer },
    },
  };
}
