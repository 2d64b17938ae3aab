import { BulkheadError } from "@bulkhead/contract";
import { printable, type Style } from "./style.ts";

/** Anything thrown becomes one of ours; what is not expected is a fault of Bulkhead and says so. */
export function asBulkheadError(error: unknown): BulkheadError {
  // What went wrong first is what the reader asked about; that undoing failed as well stays in the chain of causes.
  if (error instanceof SuppressedError) return asBulkheadError(error.suppressed ?? error.error);
  if (error instanceof BulkheadError) return error;
  const what = error instanceof Error ? error.message : String(error);
  return new BulkheadError("INTERNAL", { what: `internal error: ${what}`, cause: error });
}

/** The chain below an error, outermost first, without repeating what was said. */
function causes(error: unknown): string[] {
  const lines: string[] = [];
  let at = error instanceof Error ? error.cause : undefined;
  while (at instanceof Error && lines.length < 8) {
    lines.push(at.stack ?? at.message);
    at = at.cause;
  }
  return lines;
}

/** Three lines: what, why, next. With `debug` the stack and its causes follow. */
export function renderError(error: BulkheadError, style: Style, debug: boolean): string {
  const lines = [
    `${style.red("bulkhead:")} ${printable(error.message)}`,
    `  ${style.dim("why:")}  ${printable(error.why)}`,
    `  ${style.dim("next:")} ${printable(error.next)}`,
  ];
  if (debug) lines.push(`  code: ${error.code}`, error.stack ?? "", ...causes(error));
  return `${lines.join("\n")}\n`;
}
