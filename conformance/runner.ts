import { AssertionError } from "node:assert";
import { randomBytes } from "node:crypto";
import { inspect } from "node:util";
import type { Box } from "./box.ts";
import type { Check, Context } from "./check.ts";
import { within } from "./check.ts";
import type { OpenTarget, Target } from "./target.ts";

export type Verdict =
  | { readonly kind: "passed" }
  /** Failed once and passed in a new sandbox. */
  | { readonly kind: "unsteady"; readonly error: unknown }
  | { readonly kind: "failed"; readonly error: unknown }
  | { readonly kind: "skipped"; readonly reason: string };

export interface Outcome {
  readonly check: Check;
  readonly verdict: Verdict;
  readonly ms: number;
}

export interface RunOptions {
  readonly only: RegExp | null;
  /** Every check gets this many times its time. */
  readonly patience: number;
  readonly verbose: boolean;
  readonly print: (line: string) => void;
}

/** Undoing what a check acquired must end too; a teardown that hangs is a failure of the check. */
const UNDO_TIMEOUT_MS = 30_000;

/** Runs the checks one after another against one target: parallel ones would blame each other. */
export async function runChecks(
  target: Target,
  checks: readonly Check[],
  options: RunOptions,
): Promise<readonly Outcome[]> {
  await using open = await target.open();
  const shared = new SharedBox(open);
  const outcomes: Outcome[] = [];
  for (const check of checks) {
    const title = `${check.theme}: ${check.name}`;
    if (options.only !== null && !options.only.test(title)) continue;
    const started = performance.now();
    const once = async () => judge(check, target, await attempt(check, target, open, shared, options.patience));
    const verdict = await steadied(check, shared, once);
    const outcome = { check, verdict, ms: performance.now() - started };
    outcomes.push(outcome);
    report(target, outcome, options);
  }
  await shared.drop();
  return outcomes;
}

/**
 * On a machine that is shared, time is not the check's own: of what programs do, what failed is tried once more, and said.
 * Not of the boundary, limits and leaks: one that gave way once has given way.
 */
async function steadied(check: Check, shared: SharedBox, once: () => Promise<Verdict>): Promise<Verdict> {
  const first = await once();
  if (first.kind !== "failed" || check.concern !== "function") return first;
  await shared.drop().catch(() => undefined);
  const second = await once();
  return second.kind === "passed" ? { kind: "unsteady", error: first.error } : first;
}

/** The sandbox most checks share; made anew when a check has broken it, so that one failure stays one. */
class SharedBox {
  readonly #open: OpenTarget;
  #box: Promise<Box> | null = null;

  constructor(open: OpenTarget) {
    this.#open = open;
  }

  async get(): Promise<Box> {
    if (this.#box !== null) {
      const box = await this.#box.catch(() => null);
      if (box !== null && (await alive(box))) return box;
      this.#box = null;
      if (box !== null) await box.kill().catch(() => undefined);
    }
    this.#box = this.#open.create();
    return await this.#box;
  }

  async drop(): Promise<void> {
    const box = this.#box;
    this.#box = null;
    await (await box?.catch(() => null))?.kill();
  }
}

async function alive(box: Box): Promise<boolean> {
  try {
    await within("ping", 5_000, box.ping());
    return true;
  } catch {
    return false;
  }
}

async function attempt(
  check: Check,
  target: Target,
  open: OpenTarget,
  shared: SharedBox,
  patience: number,
): Promise<Verdict> {
  const reason =
    target.traits.level === null && check.concern === "host" ? "says nothing without an engine" : check.notFor(target);
  if (reason !== null) return { kind: "skipped", reason };
  const undos: (() => unknown)[] = [];
  const controller = new AbortController();
  let failure: { error: unknown } | null = null;
  try {
    const work = contextFor(target, open, shared, undos, controller.signal).then((context) => check.body(context));
    await within(`check "${check.name}"`, check.timeoutMs * patience, work);
  } catch (error) {
    failure = { error };
  }
  controller.abort();
  for (const undo of undos.reverse()) {
    try {
      await within("undo", UNDO_TIMEOUT_MS * patience, Promise.resolve(undo()));
    } catch (error) {
      failure ??= { error };
    }
  }
  return failure === null ? { kind: "passed" } : { kind: "failed", error: failure.error };
}

async function contextFor(
  target: Target,
  open: OpenTarget,
  shared: SharedBox,
  undos: (() => unknown)[],
  signal: AbortSignal,
): Promise<Context> {
  const box = await shared.get();
  const scratch = `/tmp/check-${randomBytes(6).toString("hex")}`;
  await box.files.makeDirectory(scratch);
  undos.push(async () => {
    // A check may have killed the shared sandbox on purpose; the directory went with it.
    await box.files.remove(scratch, { recursive: true, user: "root" }).catch(() => undefined);
  });
  return {
    target,
    open,
    box,
    scratch,
    signal,
    defer: (undo) => void undos.push(undo),
    fresh: async (spec) => {
      const own = await open.create(spec);
      undos.push(() => own.kill());
      return own;
    },
  };
}

/** Without a boundary, an isolation check that passes is one that cannot fail. */
function judge(check: Check, target: Target, verdict: Verdict): Verdict {
  if (target.traits.level !== null || check.concern !== "isolation" || verdict.kind === "skipped") return verdict;
  if (verdict.kind === "failed") {
    // Anything but a broken assertion is a check that could not run, not a boundary found missing.
    return verdict.error instanceof AssertionError ? { kind: "passed" } : verdict;
  }
  return { kind: "failed", error: new Error("passes without any boundary, so it proves nothing") };
}

function report(target: Target, outcome: Outcome, options: RunOptions): void {
  const { check, verdict } = outcome;
  const inverted = target.traits.level === null && check.concern === "isolation";
  const passed = inverted ? "fails, as it must" : "ok";
  const word = { passed, unsteady: "UNSTEADY", failed: "FAILED", skipped: "skipped" }[verdict.kind];
  options.print(`${target.name}  ${check.theme}: ${check.name}  ${word}  ${outcome.ms.toFixed(0)} ms`);
  if (verdict.kind === "skipped") options.print(`    not run: ${verdict.reason}`);
  if (verdict.kind === "unsteady") options.print("    passed the second time; the first time:");
  if (verdict.kind === "failed" || verdict.kind === "unsteady")
    options.print(indent(explain(verdict.error, options.verbose)));
}

function explain(error: unknown, verbose: boolean): string {
  if (!(error instanceof Error)) return inspect(error);
  const code = "code" in error ? `${String(error.code)} ` : "";
  const why = "why" in error && typeof error.why === "string" ? ` (${error.why})` : "";
  return verbose ? inspect(error, { depth: 4 }) : `${code}${error.message}${why}`;
}

function indent(text: string): string {
  return text
    .split("\n")
    .slice(0, 40)
    .map((line) => `    ${line}`)
    .join("\n");
}
