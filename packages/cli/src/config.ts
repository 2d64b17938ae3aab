/** Everything the CLI takes from its environment; the one place that reads it. */
export interface CliConfig {
  /** The host's variables, for `--env KEY` without a value. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** https://no-color.org: any non-empty value. */
  readonly noColor: boolean;
  /** BULKHEAD_DEBUG: whole stack traces with every failure. */
  readonly debug: boolean;
  /** BULKHEAD_STATE: images and caches. */
  readonly state: string | undefined;
  /** BULKHEAD_RUN: what lives as long as a sandbox. */
  readonly run: string | undefined;
}

function given(value: string | undefined): string | undefined {
  return value === "" ? undefined : value;
}

export function readConfig(): CliConfig {
  const { env } = process;
  return {
    env,
    noColor: given(env["NO_COLOR"]) !== undefined || env["TERM"] === "dumb",
    debug: given(env["BULKHEAD_DEBUG"]) !== undefined,
    state: given(env["BULKHEAD_STATE"]),
    run: given(env["BULKHEAD_RUN"]),
  };
}
