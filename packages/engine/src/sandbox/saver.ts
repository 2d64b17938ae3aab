import type { CallOptions, Running } from "./calls.ts";
import type { Sandbox } from "./sandbox.ts";

/** A sandbox's memory and disk on the host's disk. */
export interface SnapshotInfo {
  /** Directory that holds it. */
  readonly path: string;
  readonly level: string;
  readonly driver: string;
  readonly image: string;
  /** Length of its files together; on the disk it is smaller by their holes. */
  readonly bytes: number;
  readonly createdMs: number;
}

export interface ForkOptions extends CallOptions {
  /** Host name of each copy, counted from 0. Default: that of the original. */
  readonly hostname?: (index: number) => string;
}

/** What the engine, which alone can start others, does with a running sandbox. Each throws NOT_SUPPORTED where it cannot. */
export interface Saver {
  snapshot(running: Running, where: string, options: CallOptions): Promise<SnapshotInfo>;
  fork(running: Running, count: number, options: ForkOptions): Promise<Sandbox[]>;
}
