import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { BulkheadError, type SecurityModule } from "@bulkhead/contract";
import { writeAtomically } from "../../host/file-cache.ts";
import type { HostFacts } from "../../host/facts.ts";
import { APPARMOR_PROFILES } from "../../host/security-modules.ts";
import { runChecked } from "../../system/process.ts";
import type { Availability } from "../driver.ts";
import { EGRESS_CAPABILITIES } from "../oci.ts";
import { ROOT_CAPABILITIES } from "./hardening.ts";

/** Before this version of Landlock no file could be moved from one directory to another. */
const LANDLOCK_SINCE = 2;
/** What process 1 gives up, by the version that knows it. */
const LANDLOCK_DENIES: readonly (readonly [number, string])[] = [
  [2, "changes to mounts"],
  [2, "making device nodes"],
  [2, "reaching into processes outside"],
  [5, "requests to devices other than terminals, null, zero, full and random"],
  [6, "signals to the outside"],
  [6, "abstract sockets of the outside"],
];
const PARSER_TIMEOUT_MS = 30_000;

/**
 * What our profile says. It stands behind the other walls and is told nothing of the image, so files are free; what a
 * container has no business with is named. Denials that are named fill no log, whatever a program tries.
 */
function profileText(name: string): string {
  const capabilities = [...ROOT_CAPABILITIES, ...EGRESS_CAPABILITIES].map((long) => long.slice(4).toLowerCase());
  return `profile ${name} flags=(attach_disconnected,mediate_deleted) {
  file,
${capabilities.map((capability) => `  capability ${capability},\n`).join("")}  network inet,
  network inet6,
  network netlink,
  network unix,
  unix,
  signal (receive),
  signal (send) peer=${name},
  ptrace (trace, read) peer=${name},
  ptrace (tracedby, readby),

  deny mount,
  deny remount,
  deny umount,
  deny pivot_root,
  deny /proc/* w,
  deny /proc/{acpi,bus,fs,irq,scsi,sys}/** wkl,
  deny /proc/{kcore,kmem,mem,sysrq-trigger} rwkl,
  deny /sys/** wkl,
  deny /sys/{firmware,kernel/debug,kernel/security,kernel/tracing}/** rwkl,
}
`;
}

/** Named by its content: engines of different versions do not replace each other's. */
export function appArmorProfile(): { readonly name: string; readonly text: string } {
  const digest = createHash("sha256").update(profileText("")).digest("hex");
  const name = `bulkhead-${digest.slice(0, 12)}`;
  return { name, text: profileText(name) };
}

/** What of this host's security modules a container is held to. Landlock needs no_new_privs. */
export function securityModules(noNewPrivileges: boolean, { security }: HostFacts): readonly SecurityModule[] {
  const { landlock: version, appArmor } = security;
  const denies = LANDLOCK_DENIES.filter(([since]) => version >= since).map(([, what]) => what);
  return [
    ...(noNewPrivileges && version >= LANDLOCK_SINCE ? [{ name: "landlock", version, denies } as const] : []),
    ...(appArmor === null
      ? []
      : [
          appArmor.confinedBy === null
            ? ({ name: "apparmor", profile: appArmorProfile().name, ours: true } as const)
            : ({ name: "apparmor", profile: appArmor.confinedBy, ours: false } as const),
        ]),
  ];
}

/** In words, why a module of this host does not confine the sandbox. */
export function moduleReasons(noNewPrivileges: boolean, { security }: HostFacts): readonly string[] {
  const { landlock, appArmor, seLinux } = security;
  return [
    ...(landlock < LANDLOCK_SINCE
      ? ["no Landlock: this kernel has none, or one that keeps files from being moved"]
      : []),
    ...(landlock >= LANDLOCK_SINCE && !noNewPrivileges ? ["no Landlock: it needs no_new_privs"] : []),
    ...(appArmor?.confinedBy
      ? [`this process is held to AppArmor's ${appArmor.confinedBy}, and so is the sandbox`]
      : []),
    ...(seLinux === null ? [] : ["SELinux gives the sandbox no label of its own: the runtime's holds"]),
  ];
}

/** On a host with AppArmor a container has our profile or is not to be had. */
export function withAppArmor(found: Availability, { security: { appArmor } }: HostFacts): Availability {
  if (!found.ok || appArmor === null || appArmor.confinedBy !== null) return found;
  const refused = (why: string, remedy: string): Availability => ({
    ok: false,
    reason: `AppArmor is active here and the profile for containers cannot be loaded: ${why}`,
    remedy,
  });
  if (appArmor.parser === null) return refused("there is no apparmor_parser", "apt-get install apparmor");
  if (appArmor.policy) return found;
  return refused(`${APPARMOR_PROFILES} cannot be read`, "mount -t securityfs securityfs /sys/kernel/security");
}

/** Our own profile, where the plan has it. */
export function oursIn(modules: readonly SecurityModule[] = []): string | null {
  const found = modules.find((one) => one.name === "apparmor");
  return found?.ours === true ? found.profile : null;
}

/**
 * Loads our profile where it is not loaded. It stays until the host is restarted and holds nobody who does not ask for it.
 *
 * @throws BulkheadError HOST_UNSUPPORTED when the kernel does not take it, ABORTED, TIMEOUT
 */
export async function loadAppArmor({ security, paths }: HostFacts, signal?: AbortSignal): Promise<void> {
  const { name, text } = appArmorProfile();
  if (await isLoaded(name)) return;
  const path = join(paths.state, "cache", name);
  await writeAtomically(path, text);
  await runChecked([security.appArmor?.parser ?? "apparmor_parser", "--replace", "--skip-cache", path], {
    failure: "HOST_UNSUPPORTED",
    next: `see what the kernel has against it: apparmor_parser --replace ${path}`,
    timeoutMs: PARSER_TIMEOUT_MS,
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
    ...(signal && { signal }),
  });
  if (await isLoaded(name)) return;
  throw new BulkheadError("HOST_UNSUPPORTED", {
    what: `AppArmor's profile ${name} was loaded and is not there`,
    why: `${APPARMOR_PROFILES} does not have it as enforced`,
    next: `load it by hand and look: apparmor_parser --replace ${path}`,
  });
}

async function isLoaded(name: string): Promise<boolean> {
  return (await readFile(APPARMOR_PROFILES, "utf8").catch(() => "")).split("\n").includes(`${name} (enforce)`);
}
