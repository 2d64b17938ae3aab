import type { Plan } from "@bulkhead/contract";
import { AGENT_INSIDE, type HostFacts } from "../../host/facts.ts";
import type { Instance } from "../driver.ts";
import { resources, TUN_DEVICE, type OciMount } from "../oci.ts";
import { ID_RANGE, places } from "../rootfs.ts";
import { meminfoMounts } from "./meminfo.ts";
import { oursIn } from "./security-modules.ts";
import { DEV_BYTES, HOST_TASK_OVERHEAD, MAX_PTYS, SHM_BYTES } from "./hardening.ts";

const NAMESPACES: Readonly<Record<string, string>> = { mnt: "mount", net: "network" };

/** What the runtime is told about system calls: an OCI section, and annotations for those who take a ready program. */
export interface SeccompSection {
  readonly seccomp: unknown;
  readonly annotations: Readonly<Record<string, string>>;
}

export const hasTun = ({ boundary }: Plan): boolean => boundary.devices?.includes(TUN_DEVICE) === true;

function mounts(plan: Plan, instance: Instance): OciMount[] {
  const at = places(instance);
  return [
    { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
    ...meminfoMounts(plan, instance),
    {
      destination: "/dev",
      type: "tmpfs",
      source: "tmpfs",
      options: ["nosuid", "noexec", "strictatime", "mode=755", `size=${DEV_BYTES}`],
    },
    {
      destination: "/dev/pts",
      type: "devpts",
      source: "devpts",
      options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5", `max=${MAX_PTYS}`],
    },
    {
      destination: "/dev/shm",
      type: "tmpfs",
      source: "shm",
      options: ["nosuid", "noexec", "nodev", "mode=1777", `size=${SHM_BYTES}`],
    },
    { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
    ...(hasTun(plan)
      ? [
          {
            destination: TUN_DEVICE,
            type: "bind",
            source: `${at.devices}/tun`,
            options: ["bind", "private", "nosuid", "noexec"],
          },
        ]
      : []),
    ...plan.mounts.map(({ target, readOnly }, index) => ({
      destination: target,
      type: "bind",
      source: at.mount(index),
      options: ["bind", "private", "nosuid", "nodev", readOnly ? "ro" : "rw"],
    })),
  ];
}

function landlockArguments({ boundary }: Plan): readonly string[] {
  const landlock = boundary.securityModules?.find((one) => one.name === "landlock");
  return landlock === undefined ? [] : ["--landlock", String(landlock.version)];
}

/** The OCI runtime configuration that carries out `plan.boundary` and `plan.limits`. */
export function bundle(plan: Plan, instance: Instance, host: HostFacts, section: SeccompSection): unknown {
  const { capabilitiesRoot, setupCapabilities = [] } = plan.boundary;
  const capabilities = [...capabilitiesRoot, ...setupCapabilities];
  const profile = oursIn(plan.boundary.securityModules);
  const ids = [{ containerID: 0, hostID: instance.idBase, size: ID_RANGE }];
  return {
    ociVersion: "1.0.2",
    hostname: plan.process.hostname,
    root: { path: places(instance).root, readonly: false },
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      args: [AGENT_INSIDE, ...landlockArguments(plan)],
      env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
      cwd: "/",
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      noNewPrivileges: plan.boundary.noNewPrivileges,
      ...(profile === null ? {} : { apparmorProfile: profile }),
    },
    mounts: mounts(plan, instance),
    annotations: section.annotations,
    linux: {
      namespaces: plan.boundary.namespaces.map((name) => ({
        type: NAMESPACES[name] ?? name,
        // Limits are the agent's to set: from outside a runtime needs CAP_SYS_RESOURCE in a namespace it does not own.
        ...(name === "user" ? { path: places(instance).userns } : {}),
      })),
      uidMappings: ids,
      gidMappings: ids,
      cgroupsPath: instance.cgroup,
      resources: resources(plan, host, {
        overhead: { tasks: HOST_TASK_OVERHEAD, memoryBytes: 0 },
        passesUnified: true,
      }),
      seccomp: section.seccomp,
      maskedPaths: plan.boundary.maskedPaths,
      readonlyPaths: plan.boundary.readOnlyPaths,
    },
  };
}
