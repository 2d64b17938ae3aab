/** The test host's one look at the environment. */
export const config = {
  /** Bulkhead's state directory on this machine. */
  state: process.env["BULKHEAD_STATE"] ?? "/var/lib/bulkhead",
} as const;
