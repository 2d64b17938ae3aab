import { Engine } from "@bulkhead/engine";
import type { CliConfig } from "../config.ts";
import { engineOptions } from "../engine-options.ts";
import { firstUseNotes } from "../progress-notes.ts";
import { parseOptions, refuseRest } from "../options.ts";
import { print, printJson } from "../print.ts";
import { SignalForwarder, exitCodeOfSignal } from "../run/signals.ts";
import { DOCTOR_OPTIONS } from "./table.ts";

/** Exit code of `doctor` when no level works: the same as of a request for a level that cannot be had. */
const EXIT_NO_LEVEL = 120;

export async function doctor(words: readonly string[], config: CliConfig): Promise<number> {
  const parsed = parseOptions("doctor", DOCTOR_OPTIONS, words);
  if (parsed.values.has("help")) return (await import("./help.ts")).printHelp("doctor");
  refuseRest("doctor", parsed.rest);
  using signals = new SignalForwarder();
  try {
    await using engine = await Engine.open(engineOptions(config, signals.starting));
    const report = await engine.doctor({ signal: signals.starting, ...firstUseNotes() });
    if (parsed.values.has("json")) {
      await printJson(report);
    } else {
      const { renderDoctor } = await import("../render/doctor.ts");
      const { makeStyle } = await import("../render/style.ts");
      await print(renderDoctor(report, makeStyle(process.stdout.isTTY === true && !config.noColor)));
    }
    return report.levels.some((level) => level.works) ? 0 : EXIT_NO_LEVEL;
  } catch (error) {
    if (signals.first !== undefined) return exitCodeOfSignal(signals.first);
    throw error;
  }
}
