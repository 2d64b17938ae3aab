import { BulkheadError } from "@bulkhead/contract";
import type { Driver } from "./drivers/driver.ts";

export function refuseWithoutRoot(): void {
  if (process.getuid?.() === 0) return;
  throw new BulkheadError("HOST_NOT_ROOT", {
    what: "bulkhead needs root",
    why: `mounts, control groups and id ranges need it, and this process runs as user ${process.getuid?.()}`,
    next: "run the same command with sudo",
  });
}

export function requireRecording(driver: Driver): void {
  if (driver.capabilities.recordsCalls) return;
  throw new BulkheadError("LEVEL_UNAVAILABLE", {
    what: `system calls cannot be recorded at ${driver.level}`,
    why: "a profile is made from what a program asks of the host's kernel, which only a container's programs do",
    next: "record at --isolation container what you trust enough for it; the profile can be used at every level",
  });
}

export function networkForbidden(): BulkheadError {
  return new BulkheadError("POLICY_REFUSED", {
    what: "a sandbox with a network is refused",
    why: "this engine was opened with network: false, which gives no sandbox a network",
    next: "leave network out of the spec, or ask whoever runs the engine",
  });
}
