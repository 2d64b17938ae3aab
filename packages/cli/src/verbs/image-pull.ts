import { ImageStore, prepareImage, pullImage, pullingOf } from "@bulkhead/engine/images";
import { stateDirectory } from "@bulkhead/engine/host";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import type { Parsed } from "../options.ts";
import { print, printJson } from "../print.ts";
import { Progress, onStandardError } from "../progress.ts";
import { viewOf } from "../pull-view.ts";
import { SignalForwarder, exitCodeOfSignal } from "../run/signals.ts";
import { namesIn } from "./image.ts";

interface Shown {
  stop(): void;
}

/** Stopped by a signal, it ends as a program does that the signal ended. */
async function stoppable(shown: Shown, work: (signal: AbortSignal) => Promise<void>): Promise<number> {
  using signals = new SignalForwarder();
  try {
    await work(signals.starting);
    return 0;
  } catch (error) {
    shown.stop();
    if (signals.starting.aborted && signals.first !== undefined) return exitCodeOfSignal(signals.first);
    throw error;
  }
}

/** Asks the source also for what is there: who says pull wants what is there now. */
export async function pull(parsed: Parsed, config: CliConfig): Promise<number> {
  const pulling = pullingOf(engineOptions(config), parsed.values.get("insecure-registry") ?? []);
  const pulled: { reference: string; digest: string }[] = [];
  for (const reference of namesIn("pull", parsed)) {
    const view = viewOf(reference);
    const code = await stoppable(view, async (signal) => {
      const onPull = (event: Parameters<typeof view.update>[0]): void => view.update(event);
      const { digest, name } = await pullImage(reference, pulling, { missingOnly: false, signal, onPull });
      view.finish("is there");
      pulled.push({ reference: name, digest });
    });
    if (code !== 0) return code;
  }
  if (parsed.values.has("json")) await printJson(pulled);
  else await print(pulled.map(({ reference, digest }) => `${reference} ${digest}`).join("\n"));
  return 0;
}

export async function prepare(parsed: Parsed, config: CliConfig): Promise<number> {
  const store = new ImageStore(stateDirectory(engineOptions(config)));
  const prepared: { reference: string; path: string; bytes: number }[] = [];
  for (const reference of namesIn("prepare", parsed)) {
    const progress = new Progress(`${reference} for microVMs`, { ...onStandardError(), unit: "bytes" });
    const code = await stoppable(progress, async (signal) => {
      const made = await prepareImage(store, reference, {
        signal,
        onWait: () => progress.update({ label: "waiting for another who makes it", done: 0, total: 0 }),
        onProgress: (event) => progress.update({ label: "writing", ...event }),
      });
      progress.finish("is ready");
      prepared.push({ reference, ...made });
    });
    if (code !== 0) return code;
  }
  if (parsed.values.has("json")) await printJson(prepared);
  else await print(prepared.map(({ reference, path }) => `${reference} ${path}`).join("\n"));
  return 0;
}
