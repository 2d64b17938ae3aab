import { BulkheadError } from "@bulkhead/contract";
import { containerDriver } from "./container/driver.ts";
import { makeFilter } from "./container/seccomp/compile.ts";
import { PROFILE } from "./container/seccomp/profile.ts";
import { SYSCALLS, type Architecture } from "./container/seccomp/syscalls.ts";
import type { Driver } from "./driver.ts";
import { gvisorDriver } from "./gvisor/driver.ts";

function architecture(arch: string): Architecture {
  if (Object.hasOwn(SYSCALLS, arch)) return arch as Architecture;
  throw new BulkheadError("HOST_UNSUPPORTED", {
    what: `processors of kind ${arch} are not supported`,
    why: `system-call filters exist for ${Object.keys(SYSCALLS).join(", ")}`,
    next: "use a machine with one of these",
  });
}

/**
 * Every driver of this build; within a level the preferred one first.
 * @throws BulkheadError HOST_UNSUPPORTED
 */
export function allDrivers(arch: string): readonly Driver[] {
  const filter = makeFilter(PROFILE, architecture(arch));
  return [containerDriver("crun", filter), containerDriver("runc", filter), gvisorDriver()];
}
