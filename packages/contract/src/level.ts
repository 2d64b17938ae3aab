/** Isolation levels, weakest first. The order is the meaning of `{ atLeast }`. */
export const LEVELS = ["container", "gvisor", "microvm"] as const;
export type Level = (typeof LEVELS)[number];

export const TRUSTS = ["trusted", "untrusted", "multi-tenant", "regulated"] as const;
export type Trust = (typeof TRUSTS)[number];

/** The weakest level a trust statement admits, and whether hardware virtualisation is required. */
export const TRUST_FLOOR: Readonly<Record<Trust, { level: Level; hardware: boolean }>> = {
  trusted: { level: "container", hardware: false },
  untrusted: { level: "gvisor", hardware: false },
  "multi-tenant": { level: "microvm", hardware: false },
  regulated: { level: "microvm", hardware: true },
};

/** @returns true if `level` is as strong as `floor` or stronger. */
export function satisfies(level: Level, floor: Level): boolean {
  return LEVELS.indexOf(level) >= LEVELS.indexOf(floor);
}

/** Levels whose boundary the CPU's virtualisation can draw. */
export const HARDWARE_LEVELS: readonly Level[] = ["microvm"];

/** @returns the stronger of the two. */
export function stronger(a: Level, b: Level): Level {
  return satisfies(a, b) ? a : b;
}
