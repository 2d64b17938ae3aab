export * from "./errors.ts";
export * from "./level.ts";
export * from "./plan.ts";
export * from "./spec.ts";
