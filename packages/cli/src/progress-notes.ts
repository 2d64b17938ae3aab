import { isatty } from "node:tty";

/** Where somebody is watching, says what a first use is busy with; a script's standard error stays the program's own. */
export function firstUseNotes(): { readonly onProgress?: (text: string) => void } {
  if (!isatty(2)) return {};
  return { onProgress: (text) => process.stderr.write(`bulkhead: ${text}\n`) };
}
