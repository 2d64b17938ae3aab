import type { EngineOptions } from "@bulkhead/engine";
import type { CliConfig } from "./config.ts";

export function engineOptions(config: CliConfig, signal?: AbortSignal): EngineOptions {
  return {
    ...(config.state !== undefined && { state: config.state }),
    ...(config.run !== undefined && { run: config.run }),
    ...(signal !== undefined && { signal }),
  };
}
