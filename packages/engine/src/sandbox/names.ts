import { BulkheadError } from "@bulkhead/contract";

/** PATH_MAX of Linux, without its final zero byte. */
const MAX_PATH_BYTES = 4095;
const utf8 = new TextDecoder("utf-8", { fatal: true });

/** A path inside the sandbox: text as UTF-8, or the bytes themselves. Relative ones start at the user's home. */
export type GuestPath = string | Uint8Array;

/**
 * Bytes that are not UTF-8, as text for people: each byte that does not belong becomes U+FFFD. The text then leads nowhere;
 * the bytes beside it do.
 */
export function textOf(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8");
  }
}

export function pathBytes(path: GuestPath): Uint8Array {
  const bytes = typeof path === "string" ? Buffer.from(path, "utf8") : path;
  if (bytes.length === 0 || bytes.length > MAX_PATH_BYTES || bytes.includes(0)) {
    throw new BulkheadError("SPEC_INVALID", {
      what: `path ${quote(path)} is not a path`,
      why:
        bytes.length === 0
          ? "it is empty"
          : bytes.includes(0)
            ? "it holds a zero byte"
            : `it has ${bytes.length} bytes`,
      next: `give 1 to ${MAX_PATH_BYTES} bytes without a zero byte`,
    });
  }
  return bytes;
}

/** Bytes of an argument, or of a directory that may be left out. @param what names it in the error. */
export function plainBytes(text: string, what: string): Uint8Array {
  if (text.includes("\0"))
    throw new BulkheadError("SPEC_INVALID", { what: `${what} ${quote(text)} holds a zero byte` });
  return Buffer.from(text, "utf8");
}

/** The longest delay Node's timers take; a longer one would fire at once. */
export const MAX_TIMEOUT_MS = 2 ** 31 - 1;
/** Linux's PID_MAX_LIMIT on 64-bit machines. */
export const MAX_PID = 4_194_304;
/** Permission bits, set-id and sticky bits. */
export const MAX_MODE = 0o7777;

/** @returns `value`, when it is a whole number within both bounds. @param what names it in the error. */
export function whole(value: number, what: string, least: number, most: number): number {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return value;
  throw new BulkheadError("SPEC_INVALID", {
    what: `${what} of ${value} is out of range`,
    next: `give a whole number from ${least} to ${most}`,
  });
}

const SHOWN_CHARS = 120;

/** For messages: one line, bounded, in quotes. */
export function quote(path: GuestPath): string {
  const text = typeof path === "string" ? path : textOf(path);
  return JSON.stringify(text.length <= SHOWN_CHARS ? text : `${text.slice(0, SHOWN_CHARS)}…`);
}
