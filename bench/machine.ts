import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

/** A run beside somebody else's work measures that work. */
const IDLE_SHARE = 0.7;
const LOOK_MS = 40;
/** Beyond this the machine will not become idle; measure anyway and say so. */
const WAIT_LIMIT_MS = 1_500;

async function ticks(): Promise<{ idle: number; total: number }> {
  const line = (await readFile("/proc/stat", "latin1")).split("\n", 1)[0] ?? "";
  const fields = line.trim().split(/\s+/).slice(1).map(Number);
  return { idle: (fields[3] ?? 0) + (fields[4] ?? 0), total: fields.reduce((a, b) => a + b, 0) };
}

/** Waits until the processors are mostly idle. @returns false when they did not become so in time. */
export async function waitIdle(limitMs = WAIT_LIMIT_MS): Promise<boolean> {
  const deadline = performance.now() + limitMs;
  let before = await ticks();
  for (;;) {
    await sleep(LOOK_MS);
    const now = await ticks();
    const passed = now.total - before.total;
    if (passed > 0 && (now.idle - before.idle) / passed >= IDLE_SHARE) return true;
    if (performance.now() > deadline) return false;
    before = now;
  }
}

/** What programs could still be given, as the kernel estimates it. */
export async function availableBytes(): Promise<number> {
  const kib = /^MemAvailable:\s+(\d+)/m.exec(await readFile("/proc/meminfo", "latin1"))?.[1];
  return Number(kib) * 1024;
}
