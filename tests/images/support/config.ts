/** Where tests look for what set-up has fetched for them. */
export const stateDir = process.env["BULKHEAD_STATE"] ?? "/var/lib/bulkhead";

/** The environment of this process, for programs that are started as a user would start them. */
export const environment = process.env;
