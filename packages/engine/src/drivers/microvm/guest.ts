import type { Plan } from "@bulkhead/contract";
import { GUEST_ADDRESSES } from "../../egress/guest.ts";
import type { GuestIdentity } from "../../guest/prepare.ts";
import type { HostFacts } from "../../host/facts.ts";
import { HOST_TASK_OVERHEAD } from "../container/hardening.ts";
import type { ScratchSize } from "../scratch.ts";
import { argvGeneration, type Survey } from "./survey.ts";
import type { TemplateKey } from "./templates.ts";

/** The guest that a plan asks for: its size, who it is, and what its template is bound to. */

/** The disk of the writable layer, inside. */
export const LAYER_DEVICE = "/dev/vdb";
export const MIB = 1024 * 1024;
/** What a guest's kernel takes for itself, measured 30 MiB, and of each page a 64th for its bookkeeping. */
const KERNEL_OWN_BYTES = 40 * MIB;
const BOOKKEEPING = 1 / 64;
const MEMORY_STEP_MIB = 2;
/** Every byte of it may become the host's, and a template of it is booted once: enough for a compiler, not for a data set. */
export const DEFAULT_MEMORY_BYTES = 512 * MIB;
/** A second processor costs emulation a third of its start, and every guest's idle time. */
export const DEFAULT_CPUS = 1;

/** Guest memory, so that what was asked for is there for what runs inside. */
export function memoryMib(askedBytes: number): number {
  const bytes = askedBytes * (1 + BOOKKEEPING) + KERNEL_OWN_BYTES;
  return Math.ceil(bytes / (MEMORY_STEP_MIB * MIB)) * MEMORY_STEP_MIB;
}

export interface Size {
  readonly memoryMib: number;
  readonly cpus: number;
  readonly scratch: ScratchSize;
}

export function sizeOf({ limits }: Plan): Size {
  return {
    memoryMib: memoryMib(limits.memoryBytes ?? DEFAULT_MEMORY_BYTES),
    cpus: Math.ceil(limits.cpus ?? DEFAULT_CPUS),
    scratch: { bytes: limits.diskBytes, inodes: limits.diskInodes },
  };
}

export function identityOf({ limits, network, process }: Plan): GuestIdentity {
  return {
    hostname: process.hostname,
    rootDevice: "/dev/vda",
    upper: { device: LAYER_DEVICE },
    pids: limits.pids + HOST_TASK_OVERHEAD,
    memoryBytes: limits.memoryBytes ?? DEFAULT_MEMORY_BYTES,
    resolver: network === "none" ? "" : GUEST_ADDRESSES.resolver,
  };
}

export function keyOf(made: Plan, host: HostFacts, { cpuModel, accelerator, boot }: Survey): TemplateKey {
  const { memoryMib: memory, cpus } = sizeOf(made);
  return {
    bootId: host.bootId,
    qemu: made.runtime.digest,
    kernel: host.guestKernel?.hash ?? "",
    agent: host.digests.agent,
    cpuModel,
    accelerator,
    argv: argvGeneration(accelerator, boot.kind),
    memoryMib: memory,
    cpus,
    sharing: made.mounts.length > 0,
    root: null,
  };
}
