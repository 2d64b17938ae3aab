import { access, constants, readFile } from "node:fs/promises";
import { join } from "node:path";
import { BulkheadError } from "@bulkhead/contract";
import { runChecked } from "../system/process.ts";
import { writeAtomically } from "./file-cache.ts";

/** What of the kernel's mandatory access control there is on this host. */
export interface SecurityFacts {
  /** Version of Landlock's interface; 0 where the kernel has none or it is off. */
  readonly landlock: number;
  /** Null where it is not active. */
  readonly appArmor: AppArmorFacts | null;
  readonly seLinux: "enforcing" | "permissive" | null;
}

export interface AppArmorFacts {
  /** The profile that this process, and so all that it starts, is held to already: it cannot be exchanged for ours. */
  readonly confinedBy: string | null;
  /** What loads profiles; null where it is not installed. */
  readonly parser: string | null;
  /** The kernel's list of loaded profiles can be read, and so added to. */
  readonly policy: boolean;
}

/** One line for each loaded profile: `name (enforce)`. */
export const APPARMOR_PROFILES = "/sys/kernel/security/apparmor/profiles";
const LANDLOCK_TIMEOUT_MS = 10_000;
/** What AppArmor calls whom it holds to nothing, be it by a profile of that mode. */
const NOT_HELD = /^unconfined$| \((?:unconfined|complain)\)$/;

const read = async (path: string): Promise<string> => (await readFile(path, "utf8").catch(() => "")).trim();

const can = (path: string, mode: number): Promise<boolean> =>
  access(path, mode).then(
    () => true,
    () => false,
  );

/** The name in `/proc/<pid>/attr/current`, null for a process that is held to nothing. */
export function confiningProfile(label: string): string | null {
  return label === "" || NOT_HELD.test(label) ? null : label.replace(/ \([a-z]+\)$/, "");
}

async function appArmorFacts(searchPath: readonly string[]): Promise<AppArmorFacts | null> {
  if ((await read("/sys/module/apparmor/parameters/enabled")) !== "Y") return null;
  const parsers = [...searchPath, "/usr/sbin", "/sbin"].map((directory) => join(directory, "apparmor_parser"));
  const runs = await Promise.all(parsers.map((path) => can(path, constants.X_OK)));
  return {
    confinedBy: confiningProfile(await read("/proc/self/attr/current")),
    parser: parsers.find((_, index) => runs[index]) ?? null,
    policy: await can(APPARMOR_PROFILES, constants.R_OK),
  };
}

/** Only a program can ask, so the agent is asked, once for each boot and agent. */
async function landlockVersion(agent: string, key: string, state: string, signal?: AbortSignal): Promise<number> {
  const path = join(state, "cache", `landlock-${key}`);
  const stored = /^\d+$/.exec(await read(path));
  if (stored !== null) return Number(stored[0]);
  const { stdout } = await runChecked([agent, "--landlock-version"], {
    failure: "HOST_UNSUPPORTED",
    next: "build the agent: ./x setup",
    timeoutMs: LANDLOCK_TIMEOUT_MS,
    env: {},
    ...(signal && { signal }),
  });
  if (!/^\d+\n$/.test(stdout)) {
    throw new BulkheadError("HOST_UNSUPPORTED", {
      what: `${agent} does not say which Landlock this kernel has`,
      why: "it is no agent of this version",
      next: "build it: ./x setup",
    });
  }
  await writeAtomically(path, stdout.trim()).catch(() => undefined);
  return Number(stdout);
}

export interface SecurityQuestion {
  readonly state: string;
  readonly searchPath: readonly string[];
  readonly bootId: string;
  readonly agent: string;
  /** Empty where there is no agent. */
  readonly agentDigest: string;
  readonly signal?: AbortSignal;
}

/** @throws BulkheadError HOST_UNSUPPORTED when the agent does not run, ABORTED, TIMEOUT */
export async function securityFacts(question: SecurityQuestion): Promise<SecurityFacts> {
  const { state, searchPath, bootId, agent, agentDigest, signal } = question;
  const enforce = await read("/sys/fs/selinux/enforce");
  const key = `${bootId.slice(0, 8)}-${agentDigest.slice(0, 16)}`;
  return {
    landlock: agentDigest === "" ? 0 : await landlockVersion(agent, key, state, signal),
    appArmor: await appArmorFacts(searchPath),
    seLinux: enforce === "" ? null : enforce === "1" ? "enforcing" : "permissive",
  };
}

/** What `doctor` prints. */
export function securityNames({ landlock, appArmor, seLinux }: SecurityFacts): readonly string[] {
  return [
    ...(landlock > 0 ? [`landlock ${landlock}`] : []),
    ...(appArmor === null ? [] : [appArmor.confinedBy === null ? "apparmor" : `apparmor (${appArmor.confinedBy})`]),
    ...(seLinux === null ? [] : [`selinux (${seLinux})`]),
  ];
}
