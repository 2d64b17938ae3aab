import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const DEFAULT_FUZZ_SECONDS = 2;

/** How long each fuzz test may run, in milliseconds. BULKHEAD_FUZZ_SECONDS sets it. */
export const fuzzMs = 1000 * Number(process.env["BULKHEAD_FUZZ_SECONDS"] ?? DEFAULT_FUZZ_SECONDS);

function built(name: string): string | null {
  const chosen = process.env["BULKHEAD_AGENT"];
  if (chosen !== undefined) return chosen;
  for (const kind of ["release", "debug"]) {
    const path = fileURLToPath(new URL(`../../../../target/${kind}/${name}`, import.meta.url));
    if (existsSync(path)) return path;
  }
  return null;
}

/** The real agent's binary, or null when it has not been built. BULKHEAD_AGENT overrides. */
export const agentPath: string | null = built("bulkhead-agent");
