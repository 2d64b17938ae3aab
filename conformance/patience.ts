import { parseArgs } from "node:util";

const { values } = parseArgs({ strict: false, options: { patience: { type: "string", default: "1" } } });

/** `--patience`: every wait is this many times as long, for a machine that is that much slower. */
export const PATIENCE = Number(values["patience"]);

if (!(PATIENCE >= 1)) throw new Error(`--patience ${String(values["patience"])} is no factor of 1 or more`);
