import type { HostFacts } from "../host/facts.ts";
import type { Availability } from "./driver.ts";

/** A runtime of this host; `remedy` is what to do where it is not there or does not run. */
export function located(name: string, host: HostFacts, remedy: string): Availability {
  const found = host.runtimes[name] ?? { kind: "absent" };
  switch (found.kind) {
    case "found":
      return { ok: true, runtime: found.runtime, notes: [] };
    case "broken":
      return { ok: false, reason: `${found.path} does not run: ${found.why}`, remedy };
    case "refused":
      return { ok: false, reason: found.why, remedy: found.remedy };
    case "absent":
      return { ok: false, reason: `${name} is not installed`, remedy };
  }
}
