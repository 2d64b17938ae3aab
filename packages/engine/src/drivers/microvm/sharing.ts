import type { MountPlan } from "@bulkhead/contract";
import { ID_RANGE } from "../rootfs.ts";
import type { Sharing } from "./filter.ts";
import { JAIL_USER, type JailUser } from "./jail.ts";

/** What the guest may do to host directories, all mounts together. */
export function sharingOf(mounts: readonly MountPlan[]): Sharing {
  if (mounts.length === 0) return "none";
  return mounts.every((mount) => mount.readOnly) ? "read" : "write";
}

/**
 * Who QEMU is: outside it acts in the mounts as their owner, so that a guest can do there what the owner can and what it
 * makes is the owner's. Ids are shifted one to one, so an owner beyond the range cannot be had.
 */
export function jailUser(mounts: readonly MountPlan[]): JailUser {
  const owner = (mounts.find((mount) => !mount.readOnly) ?? mounts[0])?.owner;
  return owner !== undefined && owner.uid < ID_RANGE && owner.gid < ID_RANGE ? owner : JAIL_USER;
}
