import type { Plan } from "@bulkhead/contract";
import type { HostFacts } from "../host/facts.ts";
import { CPU_PERIOD_US, RLIMITS } from "./container/hardening.ts";

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

/** The limits every sandbox gets, lowered to the host's own where those are lower: raising them needs CAP_SYS_RESOURCE. */
export function ociRlimits(host: HostFacts): { type: string; soft: number; hard: number }[] {
  return Object.entries(RLIMITS).map(([type, wanted]) => {
    const value = Math.min(wanted, host.rlimits[type]?.hard ?? wanted);
    return { type, soft: value, hard: value };
  });
}

/** What the host adds to the asked limits so that the runtime's own needs are not taken from the user. */
export interface Overhead {
  readonly tasks: number;
  readonly memoryBytes: number;
}

/** `linux.resources`: memory with swap closed, CPU quota, tasks, no devices but the standard ones and the plan's. */
export function resources(plan: Plan, host: HostFacts, overhead: Overhead = { tasks: 0, memoryBytes: 0 }): unknown {
  const { memoryBytes, cpus, pids } = plan.limits;
  const limit = memoryBytes === null ? null : memoryBytes + overhead.memoryBytes;
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
    ...(cpus === null ? {} : { cpu: { quota: Math.round(cpus * CPU_PERIOD_US), period: CPU_PERIOD_US } }),
    pids: { limit: pids + overhead.tasks },
  };
}
