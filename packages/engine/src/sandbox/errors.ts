import { BulkheadError } from "@bulkhead/contract";

export { aborted, failureToError, untrustedText } from "../channel/errors.ts";

export function timedOut(
  subject: string,
  timeoutMs: number,
  details: Readonly<Record<string, unknown>> = {},
): BulkheadError {
  return new BulkheadError("TIMEOUT", {
    what: `${subject} took longer than ${timeoutMs} ms and was ended`,
    details: { timeoutMs, ...details },
  });
}

export function outputLimit(subject: string, maxBytes: number, option: string): BulkheadError {
  return new BulkheadError("OUTPUT_LIMIT", {
    what: `${subject} gave more than ${maxBytes} bytes`,
    next: `raise ${option}, or read it as a stream`,
    details: { maxBytes },
  });
}

export function entryLimit(subject: string, maxEntries: number): BulkheadError {
  return new BulkheadError("OUTPUT_LIMIT", {
    what: `${subject} has more than ${maxEntries} entries`,
    next: "raise maxEntries, lower depth, or iterate over entries() instead",
    details: { maxEntries },
  });
}

/** A number from the wire that JavaScript cannot hold exactly is a lie: no sandbox has 2^53 bytes. */
export function safeNumber(value: bigint): number {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : Number.MAX_SAFE_INTEGER;
}
