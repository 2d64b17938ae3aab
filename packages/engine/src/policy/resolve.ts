import type { Level, Spec } from "@bulkhead/contract";

/** A spec with its level chosen and every limit made definite. */
export interface ResolvedSpec extends Spec {
  readonly level: Level;
  /** Why this level, in words. */
  readonly levelReason: string;
  readonly user: string;
  readonly pids: number;
  readonly diskBytes: number;
  readonly hostname: string;
}
