import { fileURLToPath } from "node:url";

/** The bench's one look at the environment. */
export const config = {
  environment: process.env,
  /** A directory where peers.sh has unpacked the peers before; default: a fresh one, removed at the end. */
  peers: process.env["BULKHEAD_BENCH_PEERS"],
  command: [fileURLToPath(new URL("../bulkhead", import.meta.url))],
} as const;
