import type { Sandbox } from "./sandbox.ts";

/** setTimeout takes no more; longer limits are waited for in parts. */
const MAX_WAIT_MS = 2 ** 31 - 1;

/** Ends a sandbox at its limit on time, or once nothing has come or gone for as long as it may idle. */
export function watchTime(box: Sandbox): Disposable {
  const { timeoutMs, idleTimeoutMs } = box.plan.limits;
  const begun = performance.now();
  const stack = new DisposableStack();
  const watch = (limit: "timeout" | "idle", limitMs: number | null, spentMs: () => number): void => {
    if (limitMs === null) return;
    let timer: NodeJS.Timeout;
    const check = (): void => {
      const leftMs = limitMs - spentMs();
      if (leftMs > 0) timer = setTimeout(check, Math.min(Math.ceil(leftMs), MAX_WAIT_MS));
      // A teardown that fails is told to whoever disposes of the sandbox: it is the same promise.
      else void box.endFor(limit, limitMs).catch(() => undefined);
    };
    check();
    stack.defer(() => clearTimeout(timer));
  };
  watch("timeout", timeoutMs, () => performance.now() - begun);
  watch("idle", idleTimeoutMs, () => box.idleMs);
  return stack;
}
