import { matchesGlob } from "node:path";

/** Where each dangerous power lives; globs relative to the repository. Whatever is not listed goes through these. */
export const HOMES = {
  /** Starting processes: bounded output and a kill that reaches children are written once. */
  process: ["packages/engine/src/system/**"],
  /** Deleting recursively: one check of what may be deleted. */
  removal: ["packages/engine/src/system/remove-tree.ts"],
  /** Reading the environment: everything else is told what it needs. */
  environment: ["**/config.ts", "**/*.config.ts"],
} as const satisfies Record<string, readonly string[]>;

/** Code that tests or measures the whole and has no other way; users never run it. */
export const WORKBENCH = ["**/*.test.ts", "packages/*/src/testing/**", "tests/**", "conformance/**", "bench/**"];

export type Home = keyof typeof HOMES;

/** @param file relative to the repository */
export function mayDo(power: Home, file: string): boolean {
  return [...HOMES[power], ...WORKBENCH].some((glob) => matchesGlob(file, glob));
}
