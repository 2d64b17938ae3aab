import type { CreateOptions } from "@bulkhead/engine";
import { usageError, type Parsed } from "./options.ts";

const POLICIES = ["missing", "always", "never"] as const;

/** What `--pull` and `--insecure-registry` say. @throws BulkheadError SPEC_INVALID */
export function pullChoice(parsed: Parsed): Pick<CreateOptions, "pull" | "insecureRegistries"> {
  const given = parsed.values.get("pull")?.[0] ?? "missing";
  const pull = POLICIES.find((policy) => policy === given);
  if (pull !== undefined) return { pull, insecureRegistries: parsed.values.get("insecure-registry") ?? [] };
  throw usageError(
    `--pull ${JSON.stringify(given)} is no policy`,
    `a policy is one of: ${POLICIES.join(", ")}`,
    "leave it out to pull what is missing",
  );
}
