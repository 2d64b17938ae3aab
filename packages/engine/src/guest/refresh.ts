import { randomBytes, randomUUID } from "node:crypto";
import { call, type CallOptions, type Inside } from "../sandbox/calls.ts";
import { MACHINE_ID_BYTES, NS_PER_MS, SEED_BYTES } from "./prepare.ts";

/**
 * Makes a guest that goes on from saved memory another than the one it was saved from: random numbers, boot id, machine id,
 * host name and time. What is sent behind it is answered after it. Processes inside keep what they have read before.
 *
 * @throws BulkheadError as every call does; the guest is no other one then
 */
export async function refreshGuest(inside: Inside, hostname: string, options: CallOptions = {}): Promise<void> {
  await refresh(inside, hostname, randomUUID(), options);
}

/**
 * Makes a clone of a guest that only has its root a sandbox of its own. Its kernel draws the boot id itself, later, from the
 * random numbers that it is given here.
 *
 * @param hostname empty: the one it has
 * @throws BulkheadError as every call does; the guest is of no use then
 */
export async function identifyGuest(inside: Inside, hostname: string, options: CallOptions = {}): Promise<void> {
  await refresh(inside, hostname, "", options);
}

async function refresh(inside: Inside, hostname: string, bootId: string, options: CallOptions): Promise<void> {
  const body = {
    realtimeNs: now(),
    seed: randomBytes(SEED_BYTES),
    hostname,
    machineId: randomBytes(MACHINE_ID_BYTES).toString("hex"),
    bootId,
  };
  await call(inside, { name: "RefreshGuest", body }, "the guest", options);
}

/** Tells a guest that was stopped for a while what time it is. */
export async function setGuestClock(inside: Inside, options: CallOptions = {}): Promise<void> {
  const body = { realtimeNs: now(), seed: Buffer.alloc(0), hostname: "", machineId: "", bootId: "" };
  await call(inside, { name: "RefreshGuest", body }, "the guest's clock", options);
}

function now(): bigint {
  return BigInt(Date.now()) * NS_PER_MS;
}
