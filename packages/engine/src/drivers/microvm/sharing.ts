import { BulkheadError, type IdExchange, type MountPlan } from "@bulkhead/contract";
import { kernelFlavour } from "../../guest/flavour.ts";
import type { HostFacts } from "../../host/facts.ts";
import { ID_RANGE, type Shown } from "../rootfs.ts";
import type { Sharing } from "./filter.ts";
import { JAIL_USER, type JailUser } from "./jail.ts";

/** What the guest may do to host directories, all mounts together. */
export function sharingOf(mounts: readonly MountPlan[]): Sharing {
  if (mounts.length === 0) return "none";
  return mounts.every((mount) => mount.readOnly) ? "read" : "write";
}

/**
 * Who QEMU is in its jail. In each mount it acts as the mount's owner: a guest can do there what the owner can, and what it
 * makes is the owner's. A guest sees ids as they are outside where all owners are one, as is usual; where they differ it
 * sees the first writable mount's, and that one's in place of the others' own.
 */
export function jailUser(mounts: readonly MountPlan[]): JailUser {
  const { uid, gid } = (mounts.find((mount) => !mount.readOnly) ?? mounts[0])?.owner ?? JAIL_USER;
  return { uid: uid < ID_RANGE ? uid : JAIL_USER.uid, gid: gid < ID_RANGE ? gid : JAIL_USER.gid };
}

/** How QEMU is shown the mounts: its own ids in place of their owners', all others as outside. */
export function shownToQemu(mounts: readonly MountPlan[], idBase: number): (mount: MountPlan) => Shown {
  const user = jailUser(mounts);
  const pair = (file: number, seen: number): IdExchange | undefined => (file === seen ? undefined : { file, seen });
  return ({ owner }) => {
    const [uid, gid] = [pair(owner.uid, user.uid), pair(owner.gid, user.gid)];
    return { inert: true, idmap: { idBase, size: ID_RANGE, ...(uid && { uid }), ...(gid && { gid }) } };
  };
}

/** @throws BulkheadError LEVEL_UNAVAILABLE when there are mounts and the guest's kernel has no file system for them. */
export function refuseMounts(mounts: readonly MountPlan[], { guestKernel }: Pick<HostFacts, "guestKernel">): void {
  if (mounts.length === 0 || kernelFlavour(guestKernel?.kind ?? "own").sharesDirectories) return;
  throw new BulkheadError("LEVEL_UNAVAILABLE", {
    what: "host directories cannot be mounted at microvm with Debian's kernel",
    why: `the guest's kernel ${guestKernel?.release ?? ""} has no 9p`,
    next: "run bulkhead setup microvm, which builds a kernel that has it, or use gvisor or container",
  });
}

/** What to tell the user of it, none where nothing is mounted. */
export function mountReasons(mounts: readonly MountPlan[]): readonly string[] {
  if (mounts.length === 0) return [];
  const { uid, gid } = jailUser(mounts);
  return [
    `QEMU serves the mounts from its jail: in each it acts as the source's owner, whom the guest sees as ${uid}:${gid}`,
    "a mount has no devices, no set-user-id and set-group-id bits, no owners but one, and no file locks between inside and outside",
  ];
}
