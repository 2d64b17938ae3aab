/**
 * Builds the guest kernel when its inputs have changed, and prints its path:
 *   node guest/build.ts STATE_DIRECTORY
 */
import { fileURLToPath } from "node:url";
import { BulkheadError } from "@bulkhead/contract";
import { buildGuestKernel } from "../packages/engine/src/guest/kernel.ts";

async function main(stateDir: string): Promise<void> {
  const stop = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => stop.abort());
  const terminal = process.stderr.isTTY;
  let shown = "";
  try {
    const kernel = await buildGuestKernel({
      stateDir,
      configPath: fileURLToPath(new URL("kernel.config", import.meta.url)),
      signal: stop.signal,
      onProgress: ({ label, done, total }) => {
        const text = `guest kernel: ${label} ${Math.floor((done * 100) / total)} %`;
        if (text === shown) return;
        shown = text;
        process.stderr.write(terminal ? `\r\x1b[K${text}` : `${text}\n`);
      },
    });
    if (terminal && shown !== "") process.stderr.write("\n");
    console.log(kernel.path);
  } catch (error) {
    if (!(error instanceof BulkheadError)) throw error;
    console.error([error.message, error.why, error.next].filter((line) => line !== undefined).join("\n"));
    process.exitCode = error.exitCode;
  }
}

const [stateDir] = process.argv.slice(2);
if (stateDir === undefined) {
  console.error("usage: node guest/build.ts STATE_DIRECTORY");
  process.exitCode = 2;
} else {
  await main(stateDir);
}
