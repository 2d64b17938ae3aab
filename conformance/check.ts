import type { BulkheadError, ErrorCode } from "@bulkhead/contract";
import assert from "node:assert/strict";
import type { Box } from "./box.ts";
import { PATIENCE } from "./patience.ts";
import type { BoxSpec, OpenTarget, Target } from "./target.ts";

/**
 * What a check is about decides what the reference, which has no boundary, must do with it: `function` must pass there,
 * `isolation` must fail there, and `host` (limits, kills, leaks) is not run there.
 */
export type Concern = "function" | "isolation" | "host";

export interface Context {
  readonly target: Target;
  readonly open: OpenTarget;
  /** A sandbox shared by the checks of a run: leave no process and no file outside your own `scratch` behind. */
  readonly box: Box;
  /** A directory inside `box` of this check alone, owned by the default user. */
  readonly scratch: string;
  /** A sandbox of this check alone, killed at its end. */
  readonly fresh: (spec?: BoxSpec) => Promise<Box>;
  /** Registers something undone at the end of the check, last first. */
  readonly defer: (undo: () => unknown) => void;
  readonly signal: AbortSignal;
}

export interface Check {
  readonly theme: string;
  readonly name: string;
  readonly concern: Concern;
  readonly timeoutMs: number;
  /** Why this check says nothing about the target; null when it does. */
  readonly notFor: (target: Target) => string | null;
  readonly body: (context: Context) => Promise<void>;
}

export interface CheckOptions {
  readonly timeoutMs?: number;
  readonly notFor?: (target: Target) => string | null;
}

/** Ten times what the slowest ordinary check takes on two busy cores at the slowest level. */
const DEFAULT_TIMEOUT_MS = 60_000;

export type Register = (name: string, body: (context: Context) => Promise<void>, options?: CheckOptions) => void;

/** Collects the checks of one theme. */
export function theme(name: string, concern: Concern, define: (check: Register) => void): readonly Check[] {
  const checks: Check[] = [];
  define((checkName, body, options = {}) => {
    checks.push({
      theme: name,
      name: checkName,
      concern,
      timeoutMs: options.timeoutMs ?? DEFAULT_TIMEOUT_MS,
      notFor: options.notFor ?? (() => null),
      body,
    });
  });
  return checks;
}

/** Checks that `action` fails with one of the codes, and with a message that tells a person something. */
export async function fails(
  code: ErrorCode | readonly ErrorCode[],
  action: () => Promise<unknown>,
): Promise<BulkheadError> {
  const codes = typeof code === "string" ? [code] : code;
  let value: unknown;
  try {
    value = await action();
  } catch (error) {
    const found = error as BulkheadError;
    assert.equal(found.name, "BulkheadError", `expected ${codes.join(" or ")}, got ${String(error)}`);
    assert.ok(codes.includes(found.code), `expected ${codes.join(" or ")}, got ${found.code}: ${found.message}`);
    assert.ok(found.message.length > 0, "the error says nothing");
    return found;
  }
  assert.fail(`expected ${codes.join(" or ")}, but it succeeded with ${JSON.stringify(value)?.slice(0, 200)}`);
}

/** Waits until `probe` gives something else than null, false or undefined. */
export async function eventually<T>(
  what: string,
  probe: () => Promise<T | null | false | undefined> | T | null | false | undefined,
  timeoutMs = 10_000,
): Promise<T> {
  const deadline = performance.now() + timeoutMs * PATIENCE;
  for (;;) {
    const value = await probe();
    if (value !== null && value !== false && value !== undefined) return value;
    if (performance.now() > deadline) assert.fail(`${what}: not within ${timeoutMs * PATIENCE} ms`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Rejects when `promise` is still open after `timeoutMs`: for things that must happen at once. */
export async function within<T>(what: string, timeoutMs: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const limitMs = timeoutMs * PATIENCE;
    timer = setTimeout(() => reject(new Error(`${what}: not within ${limitMs} ms`)), limitMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
