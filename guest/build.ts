/**
 * Makes a part of microVMs when it is not there or its inputs have changed, and prints its path:
 *   node guest/build.ts STATE_DIRECTORY             our own guest kernel, built from Debian's source
 *   node guest/build.ts STATE_DIRECTORY --stock     Debian's cloud kernel, unpacked
 *   node guest/build.ts STATE_DIRECTORY --monitor   our own QEMU, built from Debian's source
 */
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { BulkheadError } from "@bulkhead/contract";
import type { BuildProgress } from "../packages/engine/src/guest/build-meter.ts";
import { buildGuestKernel } from "../packages/engine/src/guest/kernel.ts";
import { buildMonitor } from "../packages/engine/src/guest/monitor.ts";
import { takeStockKernel, type StockPhase } from "../packages/engine/src/guest/stock.ts";

const STOCK_LABELS: Readonly<Record<StockPhase, string>> = {
  wait: "waiting for another build to end",
  download: "downloading Debian's cloud kernel",
  unpack: "unpacking it",
  extract: "taking out the kernel and its modules",
  done: "done",
};

/** Shows each new line over the last on a terminal, below it elsewhere. */
function shower(): { readonly show: (text: string) => void; readonly end: () => void } {
  const terminal = process.stderr.isTTY;
  let shown = "";
  const show = (text: string): void => {
    if (text === shown) return;
    shown = text;
    process.stderr.write(terminal ? `\r\x1b[K${text}` : `${text}\n`);
  };
  return { show, end: () => void (terminal && shown !== "" && process.stderr.write("\n")) };
}

interface Wanted {
  readonly stock: boolean;
  readonly monitor: boolean;
}

async function make(stateDir: string, { stock, monitor }: Wanted, show: (text: string) => void): Promise<string> {
  const stop = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => stop.abort());
  const { signal } = stop;
  const file = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
  const onProgress = ({ label, done, total }: BuildProgress): void =>
    show(`${monitor ? "QEMU" : "guest kernel"}: ${label} ${Math.floor((done * 100) / total)} %`);
  if (monitor) return (await buildMonitor({ stateDir, devicesPath: file("monitor.mak"), signal, onProgress })).path;
  if (stock) {
    const onPhase = (phase: StockPhase): void => show(`guest kernel: ${STOCK_LABELS[phase]}`);
    return (await takeStockKernel({ stateDir, signal, onPhase })).vmlinux;
  }
  return (await buildGuestKernel({ stateDir, configPath: file("kernel.config"), signal, onProgress })).path;
}

async function main(stateDir: string, wanted: Wanted): Promise<void> {
  const { show, end } = shower();
  try {
    const path = await make(stateDir, wanted, show);
    end();
    console.log(path);
  } catch (error) {
    end();
    if (!(error instanceof BulkheadError)) throw error;
    console.error([error.message, error.why, error.next].filter((line) => line !== undefined).join("\n"));
    process.exitCode = error.exitCode;
  }
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { stock: { type: "boolean", default: false }, monitor: { type: "boolean", default: false } },
});
const [stateDir] = positionals;
if (stateDir === undefined || (values.stock && values.monitor)) {
  console.error("usage: node guest/build.ts STATE_DIRECTORY [--stock | --monitor]");
  process.exitCode = 2;
} else {
  await main(stateDir, values);
}
