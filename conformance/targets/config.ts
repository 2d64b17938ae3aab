/** The suite's one look at the environment. */
export const config = {
  /** Lasting state of the engines under test: images and runtimes. Default: the engine's own. */
  state: process.env["BULKHEAD_STATE"],
  /** An unpacked root file system for the reference, which has no image store. Default: the base image's. */
  rootfs: process.env["BULKHEAD_CONFORMANCE_ROOTFS"],
  agent: process.env["BULKHEAD_AGENT"] ?? new URL("../../target/release/bulkhead-agent", import.meta.url).pathname,
} as const;
