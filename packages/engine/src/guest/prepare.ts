import { randomBytes } from "node:crypto";
import { BulkheadError, type MountPlan } from "@bulkhead/contract";
import { call, type CallOptions, type Inside } from "../sandbox/calls.ts";

/** What the agent insists on. */
export const SEED_BYTES = 64;
export const MACHINE_ID_BYTES = 16;
export const NS_PER_MS = 1_000_000n;

export interface GuestIdentity {
  readonly hostname: string;
  /** Device names in the guest. */
  readonly rootDevice: string;
  /** Null: what is written stays in the guest's memory, at most `bytes` and `inodes`. */
  readonly upper: { readonly device: string } | { readonly bytes: number; readonly inodes: number };
  readonly pids: number;
  /** Limit on what runs inside, all together; the guest's kernel has memory besides. */
  readonly memoryBytes: number;
  /** Address for /etc/resolv.conf, or empty for none. */
  readonly resolver: string;
}

/**
 * Makes a guest that woke from a template, or was booted cold, a sandbox of its own: root file system, name, machine id,
 * fresh random numbers and the time. The first thing said to it; what is sent behind it is answered after it.
 *
 * @throws BulkheadError as every call does; the guest is of no use then
 */
export async function prepareGuest(inside: Inside, guest: GuestIdentity, options: CallOptions = {}): Promise<void> {
  await prepare(inside, guest, randomBytes(SEED_BYTES), options);
}

/**
 * Gives a guest its root file system and limits alone: it is a template still, and runs nothing. `identifyGuest` makes each
 * of its clones a sandbox.
 *
 * @throws BulkheadError as every call does; the guest is of no use then
 */
export async function prepareRoot(inside: Inside, guest: GuestIdentity, options: CallOptions = {}): Promise<void> {
  await prepare(inside, guest, Buffer.alloc(0), options);
}

async function prepare(inside: Inside, guest: GuestIdentity, seed: Buffer, options: CallOptions): Promise<void> {
  const { upper } = guest;
  const inMemory = "bytes" in upper ? upper : { bytes: 0, inodes: 0 };
  const body = {
    rootDevice: guest.rootDevice,
    upperDevice: "device" in upper ? upper.device : "",
    upperBytes: BigInt(inMemory.bytes),
    upperInodes: BigInt(inMemory.inodes),
    hostname: guest.hostname,
    machineId: randomBytes(MACHINE_ID_BYTES).toString("hex"),
    seed,
    realtimeNs: BigInt(Date.now()) * NS_PER_MS,
    pids: BigInt(guest.pids),
    memoryBytes: BigInt(guest.memoryBytes),
    resolver: guest.resolver,
  };
  await call(inside, { name: "PrepareGuest", body }, "the guest", options);
}

/**
 * Mounts in a prepared guest what the device called `tag` serves: `0`, `1` and so on, in the order of `mounts`.
 *
 * @throws BulkheadError MOUNT_INVALID where the agent cannot, else as every call does; the guest is of no use then
 */
export async function mountShared(
  inside: Inside,
  tag: string,
  mounts: readonly MountPlan[],
  options: CallOptions = {},
): Promise<void> {
  const list = mounts.map(({ target, readOnly }, index) => ({
    name: String(index),
    target: Buffer.from(target),
    readOnly,
  }));
  try {
    await call(inside, { name: "MountShared", body: { tag, mounts: list } }, "a mount", options);
  } catch (error) {
    // With a number the agent has answered; without, there is no agent any more.
    if (!(error instanceof BulkheadError) || error.details["errno"] === undefined) throw error;
    throw new BulkheadError("MOUNT_INVALID", {
      what: "a mount cannot be made in the guest",
      why: error.why,
      next: "choose another target, or correct what the image or a mount above has there",
      details: { targets: mounts.map(({ target }) => target) },
      cause: error,
    });
  }
}
