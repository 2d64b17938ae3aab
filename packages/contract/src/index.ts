export * from "./canonical.ts";
export * from "./errors.ts";
export * from "./level.ts";
export * from "./plan.ts";
export * from "./rules.ts";
export * from "./spec.ts";
export * from "./suggest.ts";
export * from "./units.ts";
