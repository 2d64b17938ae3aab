import { BulkheadError } from "./errors.ts";

const SHOWN_VALUE_MAX_CHARS = 80;

function show(value: unknown): string {
  const text = typeof value === "string" ? JSON.stringify(value) : String(JSON.stringify(value) ?? value);
  return text.length > SHOWN_VALUE_MAX_CHARS ? `${text.slice(0, SHOWN_VALUE_MAX_CHARS)}…` : text;
}

/** The error for one field: names it, shows the value, says what is accepted. */
export function fieldError(field: string, value: unknown, why: string, next: string): BulkheadError {
  return new BulkheadError("SPEC_INVALID", {
    what: `${field} ${show(value)} is not valid`,
    why,
    next,
    details: { field },
  });
}
