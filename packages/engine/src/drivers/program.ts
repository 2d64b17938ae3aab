import type { Plan } from "@bulkhead/contract";
import type { ResolvedSpec } from "../policy/resolve.ts";
import type { ImageFiles } from "./driver.ts";

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
