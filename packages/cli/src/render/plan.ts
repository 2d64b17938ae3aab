import { formatBytes, formatDuration, type Plan } from "@bulkhead/contract";
import type { Explanation } from "@bulkhead/engine";
import { columns, type Style } from "./style.ts";

function list(words: readonly string[]): string {
  return words.length === 0 ? "none" : words.join(", ");
}

const KERNELS: Readonly<Record<Plan["boundary"]["kernel"], string>> = {
  shared: "the host's kernel, shared with everything on this machine",
  sentry: "gVisor's Sentry: a kernel in user space answers the program's system calls",
  guest: "a kernel of its own in a virtual machine",
};

function boundaryRows({ boundary }: Plan): string[][] {
  const seccomp = boundary.seccomp;
  return [
    ["kernel", KERNELS[boundary.kernel]],
    ["namespaces", list(boundary.namespaces)],
    [
      "root inside",
      boundary.userNamespace ? "nobody outside (own id range in a user namespace)" : "confined by the sandbox's kernel",
    ],
    [
      "new privileges",
      boundary.noNewPrivileges ? "never (no_new_privs)" : "possible inside, through set-user-id programs",
    ],
    ["capabilities of root", list(boundary.capabilitiesRoot)],
    ...(boundary.setupCapabilities === undefined ? [] : [["given up at start", list(boundary.setupCapabilities)]]),
    ...(boundary.devices === undefined ? [] : [["host devices", list(boundary.devices)]]),
    ["capabilities of others", list(boundary.capabilitiesUser)],
    [
      "system-call filter",
      seccomp === null ? "the sandbox's kernel takes its place" : `${seccomp.name} (${seccomp.digest.slice(0, 19)})`,
    ],
    ...moduleRows(boundary),
    ...givenRows(boundary),
    ["hidden paths", list(boundary.maskedPaths)],
    ["read-only paths", list(boundary.readOnlyPaths)],
    ...monitorRows(boundary),
  ];
}

function moduleRows({ securityModules: modules }: Plan["boundary"]): string[][] {
  if (modules === undefined) return [];
  if (modules.length === 0) return [["security modules", "none"]];
  return modules.map((one) => {
    if (one.name === "landlock") return [`Landlock ${one.version} denies`, list(one.denies)];
    return ["AppArmor profile", one.ours ? one.profile : `${one.profile}, which Bulkhead itself is held to`];
  });
}

function givenRows({ givenSeccomp: given }: Plan["boundary"]): string[][] {
  if (given === undefined) return [];
  const some = given.byArgument === 0 ? "" : `, ${given.byArgument} of them not with all arguments`;
  return [["narrowed by", `${given.name} (${given.digest.slice(0, 19)}): lets ${given.calls} calls through${some}`]];
}

function monitorRows({ monitor }: Plan["boundary"]): string[][] {
  if (monitor === undefined) return [];
  const how = monitor.accelerator === "kvm" ? "the processor (KVM)" : "emulation (TCG)";
  return [
    ["drawn by", how],
    ["the monitor's jail", `namespaces ${list(monitor.namespaces)}; capabilities ${list(monitor.capabilities)}`],
    ["calls it can reach", `${monitor.reachableCalls} of the host's kernel (${monitor.seccomp.name})`],
    ["its limits", `${formatBytes(monitor.memoryBytes)}, ${monitor.tasks} tasks`],
  ];
}

/** `each` of reading and writing. */
function diskTraffic({ diskIops, diskBytesPerSecond, diskThrottle }: Plan["limits"]): string {
  if (diskThrottle === null) return "not limited";
  const rates = [
    ...(diskBytesPerSecond === null ? [] : [`${formatBytes(diskBytesPerSecond)} a second`]),
    ...(diskIops === null ? [] : [`${diskIops} operations a second`]),
  ];
  const where = diskThrottle.by === "monitor" ? "on all disks of the guest" : "on each block device";
  return `${rates.join(" and ")}, each for reading and writing, ${where}`;
}

function limitRows({ limits }: Plan): string[][] {
  const weight = limits.cpuWeight === null ? "" : `, weight ${limits.cpuWeight} (others have 100)`;
  return [
    ["CPU", `${limits.cpus ?? "all"}${weight}`],
    ["memory", limits.memoryBytes === null ? "not limited" : formatBytes(limits.memoryBytes)],
    ["processes", `${limits.pids}`],
    ["writable layer", `${formatBytes(limits.diskBytes)}, ${limits.diskInodes} files; thrown away at the end`],
    ["disk traffic", diskTraffic(limits)],
    ["open files", `${limits.openFiles} in one program`],
    ["output", limits.outputMaxBytes === null ? "not limited" : `${formatBytes(limits.outputMaxBytes)} of one program`],
    ["time", limits.timeoutMs === null ? "not limited" : formatDuration(limits.timeoutMs)],
    ["idle time", limits.idleTimeoutMs === null ? "not limited" : formatDuration(limits.idleTimeoutMs)],
  ];
}

function networkRows(network: Plan["network"]): string[][] {
  if (network === "none") return [["network", "none: loopback only, nothing leaves"]];
  const { allow, deny, rateBytesPerSecond: rate } = network;
  const rows = [["may leave", list(allow)]];
  if (deny.length > 0) rows.push(["may not leave", list(deny)]);
  if (rate !== undefined) rows.push(["network rate", `${formatBytes(rate)} a second, each way`]);
  return rows;
}

function processRows({ process: program, network, mounts }: Plan): string[][] {
  return [
    ["user", program.user],
    ["working directory", program.workdir ?? "the user's home"],
    ["variables", list(Object.keys(program.env))],
    ["host name", program.hostname],
    ...networkRows(network),
    ["mounts", list(mounts.map((m) => `${m.source} at ${m.target}${m.readOnly ? " (read-only)" : ""}`))],
  ];
}

/** The plan in words: what would run, what is enforced, why. Values of variables are not shown. */
export function renderPlan({ plan, steps, digest, can }: Explanation, style: Style): string {
  const section = (title: string, rows: readonly string[][]): string =>
    `${style.bold(title)}\n${columns(rows).replace(/^/gm, "  ")}`;
  const what = [
    ["level", plan.level],
    ["driver", `${plan.driver}, ${plan.runtime.name} ${plan.runtime.version} (${plan.runtime.path})`],
    ["image", `${plan.image.reference} (${plan.image.digest.slice(0, 19)})`],
    ["digest", digest],
    ["pause and resume", can.pause ? "yes" : "no: this level cannot"],
    [
      "snapshot and fork",
      can.snapshot ? (plan.mounts.length === 0 ? "yes" : "no: it has mounts") : "no: this level cannot",
    ],
    ["steps", `${steps.length}; see --json`],
  ];
  const parts = [section("Plan", what)];
  parts.push(
    section(
      "Why",
      plan.reasons.map((reason) => [reason]),
    ),
  );
  parts.push(section("Boundary", boundaryRows(plan)));
  const { weakened } = plan.boundary;
  if (weakened.length > 0)
    parts.push(
      section(
        style.yellow("Weaker than the default"),
        weakened.map((word) => [word]),
      ),
    );
  parts.push(section("Limits", limitRows(plan)), section("Process", processRows(plan)));
  return parts.join("\n\n");
}
