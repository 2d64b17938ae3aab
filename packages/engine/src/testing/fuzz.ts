import fc from "fast-check";
import { test } from "vitest";
import { fuzzMs } from "./config.ts";

export { default as fc } from "fast-check";

const SLACK_MS = 20_000;

/** A property tried with ever new values for BULKHEAD_FUZZ_SECONDS; the seed is printed when it fails. */
export function fuzz<T extends [unknown, ...unknown[]]>(
  name: string,
  arbitraries: { [K in keyof T]: fc.Arbitrary<T[K]> },
  property: (...values: T) => void | Promise<void>,
): void {
  test(name, { timeout: fuzzMs + SLACK_MS }, async () => {
    const checked = fc.asyncProperty(...(arbitraries as { [K in keyof T]: fc.Arbitrary<T[K]> }), async (...values: T) =>
      property(...values),
    );
    await fc.assert(checked, {
      numRuns: Number.MAX_SAFE_INTEGER,
      interruptAfterTimeLimit: fuzzMs,
      markInterruptAsFailure: false,
    });
  });
}
