import { type Copied, findSandbox } from "@bulkhead/engine";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import { parseAnywhere } from "../options.ts";
import { print, printJson } from "../print.ts";
import { onStandardError, Progress } from "../progress.ts";
import { renderCopied } from "../render/copied.ts";
import { copyAs, copyOf } from "../run/sandbox-copy.ts";
import { exitCodeOfSignal, SignalForwarder } from "../run/signals.ts";
import { CP_OPTIONS } from "./table.ts";

interface Shown {
  readonly onCopied?: (copied: Copied) => void;
  stop(): void;
}

/** Where somebody is watching. */
function progressOf(label: string): Shown {
  const where = onStandardError();
  if (!where.isTerminal) return { stop: () => undefined };
  const progress = new Progress("cp", { ...where, unit: "bytes" });
  return {
    onCopied: ({ bytes }) => progress.update({ label, done: bytes, total: 0 }),
    stop: () => progress.stop(),
  };
}

export async function cp(words: readonly string[], config: CliConfig): Promise<number> {
  const { values, rest } = parseAnywhere("cp", CP_OPTIONS, words);
  if (values.has("help")) return (await import("./help.ts")).printHelp("cp");
  const asked = copyOf(rest);
  const [user] = values.get("user") ?? [];
  using signals = new SignalForwarder();
  const shown = progressOf(rest[0]!);
  try {
    await using box = await findSandbox(asked.sandbox, engineOptions(config));
    const copied = await copyAs(box, asked, {
      signal: signals.starting,
      ...(user !== undefined && { user }),
      ...(shown.onCopied && { onCopied: shown.onCopied }),
    });
    shown.stop();
    if (values.has("json")) await printJson(copied);
    else await print(renderCopied(copied));
    return 0;
  } catch (error) {
    shown.stop();
    if (signals.first !== undefined) return exitCodeOfSignal(signals.first);
    throw error;
  }
}
