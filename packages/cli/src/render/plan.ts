import { formatBytes, formatDuration, type Plan } from "@bulkhead/contract";
import type { Explanation } from "@bulkhead/engine";
import { columns, printable, type Style } from "./style.ts";

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

function layerText({ limits, layer }: Plan): string {
  const fate = layer.keep === null ? "thrown away at the end" : `kept as ${layer.keep}`;
  return `${formatBytes(limits.diskBytes)}, ${limits.diskInodes} files, in ${layer.backing === "file" ? "a file" : "memory"}; ${fate}`;
}

function limitRows(plan: Plan): string[][] {
  const { limits } = plan;
  const weight = limits.cpuWeight === null ? "" : `, weight ${limits.cpuWeight} (others have 100)`;
  return [
    ["CPU", `${limits.cpus ?? "all"}${weight}`],
    ["memory", limits.memoryBytes === null ? "not limited" : formatBytes(limits.memoryBytes)],
    ["processes", `${limits.pids}`],
    ["writable layer", layerText(plan)],
    ["disk traffic", diskTraffic(limits)],
    ["open files", `${limits.openFiles} in one program`],
    ["output", limits.outputMaxBytes === null ? "not limited" : `${formatBytes(limits.outputMaxBytes)} of one program`],
    ["time", limits.timeoutMs === null ? "not limited" : formatDuration(limits.timeoutMs)],
    ["idle time", limits.idleTimeoutMs === null ? "not limited" : formatDuration(limits.idleTimeoutMs)],
  ];
}

function networkRows(network: Plan["network"]): string[][] {
  if (network === "none") return [["network", "none: loopback only, nothing leaves"]];
  const { allow, deny, rateBytesPerSecond: rate, sendBytesPerSecond: send, receiveBytesPerSecond: receive } = network;
  const rows = [["may leave", list(allow)]];
  if (deny.length > 0) rows.push(["may not leave", list(deny)]);
  if (rate !== undefined) rows.push(["network rate", `${formatBytes(rate)} a second, each way`]);
  if (send !== undefined) rows.push(["sent at most", `${formatBytes(send)} a second`]);
  if (receive !== undefined) rows.push(["received at most", `${formatBytes(receive)} a second`]);
  return rows;
}

function edgeRows({ secrets = [], proxyVariables }: Plan): string[][] {
  const added = secrets.map(({ host, header }) => `${header} for https://${host}`);
  return [
    ...(added.length === 0 ? [] : [["added outside", `${list(added)}; TLS to these hosts ends at the edge`]]),
    ...(proxyVariables === true ? [["proxy", "told of by variables, judged by the same rules"]] : []),
  ];
}

function shownMount(name: string, { target, readOnly, volume }: Plan["mounts"][number]): string {
  const how = readOnly ? " (read-only)" : volume?.shared === true ? " (shared)" : "";
  return `${name} at ${target}${how}`;
}

/** What the image says, where it says something. */
function imageRows({ image, process: program }: Plan): string[][] {
  const runs = [...program.entrypoint, ...program.cmd];
  const labels = Object.entries(image.labels).map(([name, value]) => `${name}=${value}`);
  const said = (title: string, words: readonly string[]): string[][] =>
    words.length === 0 ? [] : [[title, printable(list(words))]];
  return [
    [
      "without a command",
      runs.length === 0 ? "refused: the image does not say what runs" : printable(JSON.stringify(runs)),
    ],
    ...said("before a command", program.entrypoint),
    ["ended by", `${program.stop.signal}, and after ${formatDuration(program.stop.timeoutMs)} SIGKILL`],
    ...said("ports of the image", image.exposedPorts),
    ...said("data of the image", image.volumes),
    ...said("made at start", program.makes),
    ...said("labels", labels),
  ];
}

function processRows(plan: Plan): string[][] {
  const { process: program, network, mounts } = plan;
  return [
    ...imageRows(plan),
    ["user", program.user],
    ["working directory", program.workdir ?? "the user's home"],
    ["variables", list(Object.keys(program.env))],
    ["host name", program.hostname],
    ...networkRows(network),
    ["mounts", list(mounts.flatMap((m) => (m.volume === undefined ? [shownMount(m.source, m)] : [])))],
    ["volumes", list(mounts.flatMap((m) => (m.volume === undefined ? [] : [shownMount(m.volume.name, m)])))],
    ...edgeRows(plan),
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
      can.snapshot ? (plan.mounts.length === 0 ? "yes" : "no: it has mounts or volumes") : "no: this level cannot",
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
