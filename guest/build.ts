/**
 * Makes a guest kernel when it is not there or its inputs have changed, records it, and prints its path:
 *   node guest/build.ts STATE_DIRECTORY           our own, built from Debian's source
 *   node guest/build.ts STATE_DIRECTORY --stock   Debian's cloud kernel, unpacked
 */
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { BulkheadError } from "@bulkhead/contract";
import { buildGuestKernel } from "../packages/engine/src/guest/kernel.ts";
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

async function make(stateDir: string, stock: boolean, show: (text: string) => void): Promise<string> {
  const stop = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => stop.abort());
  if (stock) {
    const onPhase = (phase: StockPhase): void => show(`guest kernel: ${STOCK_LABELS[phase]}`);
    return (await takeStockKernel({ stateDir, signal: stop.signal, onPhase })).vmlinux;
  }
  const kernel = await buildGuestKernel({
    stateDir,
    configPath: fileURLToPath(new URL("kernel.config", import.meta.url)),
    signal: stop.signal,
    onProgress: ({ label, done, total }) => show(`guest kernel: ${label} ${Math.floor((done * 100) / total)} %`),
  });
  return kernel.path;
}

async function main(stateDir: string, stock: boolean): Promise<void> {
  const { show, end } = shower();
  try {
    const path = await make(stateDir, stock, show);
    end();
    console.log(path);
  } catch (error) {
    end();
    if (!(error instanceof BulkheadError)) throw error;
    console.error([error.message, error.why, error.next].filter((line) => line !== undefined).join("\n"));
    process.exitCode = error.exitCode;
  }
}

const { values, positionals } = parseArgs({ allowPositionals: true, options: { stock: { type: "boolean" } } });
const [stateDir] = positionals;
if (stateDir === undefined) {
  console.error("usage: node guest/build.ts STATE_DIRECTORY [--stock]");
  process.exitCode = 2;
} else {
  await main(stateDir, values.stock === true);
}
