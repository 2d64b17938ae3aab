import type { MountPlan, Plan } from "@bulkhead/contract";
import type { ResolvedSpec } from "../policy/resolve.ts";
import type { ImageFiles } from "./driver.ts";

/** What of the host can be written to from inside. A volume is no part of the host's. */
export function writableMounts(mounts: readonly MountPlan[]): string[] {
  return mounts
    .filter(({ readOnly, volume }) => !readOnly && volume === undefined)
    .map(({ source, target }) => `the host's ${source} is writable from inside at ${target}`);
}

/** The parts of a plan that are the same at every level: what the image is, and what runs from it. */
export function imageAndProcess(spec: ResolvedSpec, image: ImageFiles): Pick<Plan, "image" | "process"> {
  return {
    image: { reference: image.reference, digest: image.digest, ...spec.program.says },
    process: {
      user: spec.user,
      workdir: spec.workdir ?? null,
      env: spec.env,
      hostname: spec.hostname,
      makes: spec.makes,
      ...spec.program.run,
    },
  };
}
