import type { HostFacts } from "../host/facts.ts";
import { containerDriver } from "./container/driver.ts";
import { loadFilter } from "./container/seccomp/load.ts";
import type { Driver } from "./driver.ts";
import { gvisorDriver } from "./gvisor/driver.ts";
import { microvmDriver, type MicrovmOptions } from "./microvm/driver.ts";

/** Every driver, in order of preference within a level: crun before runc, because it starts twice as fast. */
export async function loadDrivers(
  host: HostFacts,
  options: MicrovmOptions = { templates: true },
): Promise<readonly Driver[]> {
  const filter = await loadFilter(host.paths.state, host.arch);
  return [
    containerDriver("crun", filter),
    containerDriver("runc", filter),
    gvisorDriver(),
    microvmDriver(options, host.arch),
  ];
}
