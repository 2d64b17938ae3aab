import type { KeeperEnded } from "../../system/keeper.ts";
import type { EndReason } from "../driver.ts";

/** A panic's trace of calls and registers has about 45. */
const SHOWN_LINES = 60;
const SHOWN_CHARACTERS = 200;
const PANIC = /Kernel panic - (.*)/;

/** Without bytes that a terminal would obey. */
function printable(line: string): string {
  return line.replace(/[\u0000-\u001f\u007f-\u009f]/g, "").slice(0, SHOWN_CHARACTERS);
}

/** QEMU ends with 0 when its guest panics, powers off, or has lost its host: the console tells these apart. */
export function explainEnd({ code, signal, oomKilled, log }: KeeperEnded): EndReason | null {
  const all = log
    .split("\n")
    .map(printable)
    .filter((line) => line !== "");
  const console = all.slice(-SHOWN_LINES);
  const last = console.at(-1) ?? "it said nothing";
  if (oomKilled) {
    const why = "the virtual machine's monitor used more memory than its jail allows";
    return { cause: "monitor-out-of-memory", why, next: "give the sandbox more memory", console };
  }
  const panic = all.map((line) => PANIC.exec(line)?.[1]).findLast((text) => text !== undefined);
  if (panic !== undefined) {
    return { cause: "guest-panic", why: `the guest's kernel panicked: ${panic}`, next: "start a new one", console };
  }
  if (code === 0) return { cause: "guest-off", why: "the guest ended itself", console };
  if (signal !== null || code === null) return null;
  return { cause: "monitor-failed", why: `QEMU ended with code ${code}: ${last}`, console };
}
