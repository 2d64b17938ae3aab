import type { SpecInput } from "@bulkhead/contract";
import type { EgressHandler, Outside as Internet, RestoreOptions } from "@bulkhead/engine";
import type { Box } from "./box.ts";

/** A spec without the choice of level and driver, which the target makes. */
export type BoxSpec = Omit<SpecInput, "isolation" | "trust" | "hardware">;

export interface Traits {
  /** `null`: there is no boundary at all, and every isolation check must fail. */
  readonly level: "container" | "gvisor" | "microvm" | null;
  /** How sudo raises privileges inside without being asked for in the spec, or that it does not. */
  readonly elevation: "setuid" | "agent" | "none";
  readonly ownKernel: boolean;
  /** Sandboxes can be saved with their memory, restored and forked. */
  readonly snapshot: boolean;
}

/** Where one open engine and its sandboxes can be found from outside; for the checks that look for what was left behind. */
export interface Outside {
  readonly enginePid: number;
  keeperPid(): number;
  readonly runDirectory: string;
  readonly stateDirectory: string;
}

export interface OpenTarget extends AsyncDisposable {
  create(spec?: BoxSpec, signal?: AbortSignal): Promise<Box>;
  restore(where: string, options?: RestoreOptions): Promise<Box>;
  removeSnapshot(where: string): Promise<void>;
  removeKept(name: string): Promise<void>;
  /** What the engine says can be done to a sandbox as a whole. */
  can(): Promise<{ readonly pause: boolean; readonly snapshot: boolean }>;
  /** null at the reference, which has neither engine nor keeper. */
  readonly outside: Outside | null;
  /** What the plan says it enforces, or null where there is no plan. */
  plan(spec?: BoxSpec): Promise<import("@bulkhead/contract").Plan | null>;
}

export type Availability = { readonly ok: true } | { readonly ok: false; readonly reason: string };

export interface OpenOptions {
  /** Run directory for this opening, in place of a fresh one; the same one again finds what an earlier opening left. */
  readonly run?: string;
  /** Answers programs of sandboxes that have a network, whatever their policy. */
  readonly egress?: EgressHandler;
  /** What lies outside of the host for sandboxes that have a network. */
  readonly internet?: Internet;
}

export interface Target {
  readonly name: string;
  readonly traits: Traits;
  available(): Promise<Availability>;
  open(options?: OpenOptions): Promise<OpenTarget>;
}
