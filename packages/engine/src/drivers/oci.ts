import type { Plan } from "@bulkhead/contract";
import type { HostFacts } from "../host/facts.ts";
import { CPU_PERIOD_US } from "./container/hardening.ts";

/** Through it a process makes an interface, given the right to administrate its network. */
export const TUN_DEVICE = "/dev/net/tun";
/** What the agent makes the sandbox's interface with; it gives it up before anything else runs. */
export const EGRESS_CAPABILITIES = ["CAP_NET_ADMIN"] as const;

export interface OciMount {
  readonly destination: string;
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

/** What the host adds to the asked limits so that the runtime's own needs are not taken from the user. */
export interface Overhead {
  readonly tasks: number;
  readonly memoryBytes: number;
}

/** Weight that control groups give where none is set; in version 1 they call it 1,024 shares. */
const DEFAULT_WEIGHT = 100;
const DEFAULT_SHARES = 1024;
/** What runtimes make of shares where groups have weights: 2 to 262,144 become 1 to 10,000. */
const SHARES_PER_WEIGHT = 262_142 / 9_999;

/**
 * A weight in OCI's words. Version 2 has it as it is; a runtime that does not pass on such values converts from shares,
 * rounding down, so that the least number of shares that gives the weight is said.
 */
export function cpuWeight(
  weight: number | null,
  host: Pick<HostFacts, "cgroup">,
  passesUnified: boolean,
): { readonly cpu: object; readonly unified: object } {
  if (weight === null) return { cpu: {}, unified: {} };
  if (host.cgroup.mode !== "v2") {
    return { cpu: { shares: Math.round((weight * DEFAULT_SHARES) / DEFAULT_WEIGHT) }, unified: {} };
  }
  if (passesUnified) return { cpu: {}, unified: { unified: { "cpu.weight": String(weight) } } };
  return { cpu: { shares: 2 + Math.ceil((weight - 1) * SHARES_PER_WEIGHT) }, unified: {} };
}

function blockIo({ diskThrottle, diskIops, diskBytesPerSecond }: Plan["limits"]): object {
  if (diskThrottle?.by !== "cgroup" || diskThrottle.devices.length === 0) return {};
  const each = (rate: number): object[] => diskThrottle.devices.map(({ major, minor }) => ({ major, minor, rate }));
  return {
    blockIO: {
      ...(diskBytesPerSecond !== null && {
        throttleReadBpsDevice: each(diskBytesPerSecond),
        throttleWriteBpsDevice: each(diskBytesPerSecond),
      }),
      ...(diskIops !== null && { throttleReadIOPSDevice: each(diskIops), throttleWriteIOPSDevice: each(diskIops) }),
    },
  };
}

export interface ResourceOptions {
  readonly overhead?: Overhead;
  /** The runtime writes `linux.resources.unified` as it is given. */
  readonly passesUnified?: boolean;
}

/** `linux.resources`: memory with swap closed, CPU quota and weight, tasks, disk traffic, no devices but the standard ones and the plan's. */
export function resources(plan: Plan, host: HostFacts, options: ResourceOptions = {}): unknown {
  const { overhead = { tasks: 0, memoryBytes: 0 }, passesUnified = false } = options;
  const { memoryBytes, cpus, pids } = plan.limits;
  const limit = memoryBytes === null ? null : memoryBytes + overhead.memoryBytes;
  const weight = cpuWeight(plan.limits.cpuWeight, host, passesUnified);
  return {
    // Runtimes add the standard devices (null, zero, full, random, urandom, tty, ptmx, pts) to this by themselves.
    devices: [
      { allow: false, access: "rwm" },
      ...(plan.boundary.devices?.includes(TUN_DEVICE)
        ? [{ allow: true, type: "c", major: 10, minor: 200, access: "rw" }]
        : []),
    ],
    // OCI's `swap` is memory and swap together: equal to the limit means none.
    ...(limit === null ? {} : { memory: { limit, ...(host.cgroup.swap ? { swap: limit } : {}) } }),
    cpu: {
      ...(cpus === null ? {} : { quota: Math.round(cpus * CPU_PERIOD_US), period: CPU_PERIOD_US }),
      ...weight.cpu,
    },
    pids: { limit: pids + overhead.tasks },
    ...blockIo(plan.limits),
    ...weight.unified,
  };
}
