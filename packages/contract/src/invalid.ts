import { BulkheadError } from "./errors.ts";

const SHOWN_VALUE_MAX_CHARS = 80;

/** A value that was given, for a message: as JSON, and what JSON has no words for as JavaScript names it. */
function json(value: unknown): string {
  if (typeof value === "bigint") return `${value}`;
  const named = (_key: string, part: unknown): unknown => (typeof part === "bigint" ? `${part}` : part);
  try {
    return JSON.stringify(value, named) ?? String(value);
  } catch {
    // It holds itself.
    return Object.prototype.toString.call(value);
  }
}

/** `json`, cut where it gets long. */
export function shownValue(value: unknown): string {
  const text = json(value);
  return text.length > SHOWN_VALUE_MAX_CHARS ? `${text.slice(0, SHOWN_VALUE_MAX_CHARS)}…` : text;
}

/** The error for one field: names it, shows the value, says what is accepted. */
export function fieldError(field: string, value: unknown, why: string, next: string): BulkheadError {
  return new BulkheadError("SPEC_INVALID", {
    what: `${field} ${shownValue(value)} is not valid`,
    why,
    next,
    details: { field },
  });
}
