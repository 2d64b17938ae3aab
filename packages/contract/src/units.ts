import { fieldError } from "./invalid.ts";

const KIB = 1024;
const BYTES_PER: Readonly<Record<string, number>> = { "": 1, k: KIB, m: KIB ** 2, g: KIB ** 3, t: KIB ** 4 };
const MS_PER: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/**
 * Reads a size as `docker run` does: a number and b, k, m, g or t (also kb, KiB, …), always powers of 1,024.
 * @returns whole bytes.
 * @throws BulkheadError SPEC_INVALID naming `field`.
 */
export function parseBytes(text: string, field = "size"): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$/i.exec(text.trim());
  const bytes =
    match === null ? Number.NaN : Math.round(Number(match[1]) * (BYTES_PER[match[2]!.toLowerCase()] ?? NaN));
  if (Number.isSafeInteger(bytes)) return bytes;
  throw fieldError(
    field,
    text,
    "a size is a number with an optional unit: b, k, m, g or t",
    "write it like 512m or 2g",
  );
}

/**
 * Reads a duration: `30s`, `1m30s`, `500ms`, `2h`; a bare number is seconds, as for timeout(1).
 * @returns whole milliseconds.
 * @throws BulkheadError SPEC_INVALID naming `field`.
 */
export function parseDuration(text: string, field = "duration"): number {
  const trimmed = text.trim().toLowerCase();
  const parts = /^\d+(\.\d+)?$/.test(trimmed) ? `${trimmed}s` : trimmed;
  let ms = 0;
  const rest = parts.replace(/(\d+(?:\.\d+)?)(ms|[smhd])/g, (_, amount: string, unit: string) => {
    ms += Number(amount) * (MS_PER[unit] ?? NaN);
    return "";
  });
  const whole = Math.round(ms);
  if (parts !== "" && rest === "" && Number.isSafeInteger(whole)) return whole;
  throw fieldError(field, text, "a duration is numbers with units: ms, s, m, h or d", "write it like 30s or 1m30s");
}

/**
 * Reads a number of CPUs: `0.5`, `2`.
 * @throws BulkheadError SPEC_INVALID naming `field`.
 */
export function parseCpus(text: string, field = "cpus"): number {
  if (/^(\d+(\.\d*)?|\.\d+)$/.test(text.trim())) return Number(text);
  throw fieldError(field, text, "CPUs are a decimal number", "write it like 0.5 or 2");
}

/**
 * Reads a whole number.
 * @throws BulkheadError SPEC_INVALID naming `field`.
 */
export function parseWhole(text: string, field: string): number {
  if (/^\d{1,15}$/.test(text.trim())) return Number(text);
  throw fieldError(field, text, `${field} is a whole number`, "write it in digits, like 256");
}

const BYTE_STEPS = [
  ["TiB", KIB ** 4],
  ["GiB", KIB ** 3],
  ["MiB", KIB ** 2],
  ["KiB", KIB],
] as const;

/** @returns bytes for people: `512 MiB`, `1.5 GiB`. */
export function formatBytes(bytes: number): string {
  for (const [name, size] of BYTE_STEPS) {
    if (bytes >= size) return `${Number((bytes / size).toFixed(1))} ${name}`;
  }
  return `${bytes} B`;
}

/** @returns milliseconds for people: `1.5 s`, `2 min`. */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${Number((ms / 1000).toFixed(2))} s`;
  return `${Number((ms / 60_000).toFixed(1))} min`;
}
