import type { Plan } from "./plan.ts";

/**
 * JSON with sorted keys and no white space, so that equal values have equal text whatever order they were built in.
 * Fields that are undefined are left out, as JSON.stringify does.
 * @throws TypeError on what JSON cannot carry (functions, NaN, bigint): a digest over a lossy text would prove nothing.
 */
export function canonicalJson(value: unknown): string {
  if (value === null || typeof value === "string" || typeof value === "boolean") return JSON.stringify(value);
  if (typeof value === "number" && Number.isFinite(value)) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map((item) => canonicalJson(item)).join(",")}]`;
  if (typeof value === "object") {
    const fields = Object.entries(value)
      .filter(([, item]) => item !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, item]) => `${JSON.stringify(key)}:${canonicalJson(item)}`);
    return `{${fields.join(",")}}`;
  }
  throw new TypeError(`a ${typeof value} has no canonical JSON`);
}

/** @returns `sha256:<64 hex>` over the plan's canonical JSON; two plans with this digest enforce the same things. */
export async function planDigest(plan: Plan): Promise<string> {
  const text = new TextEncoder().encode(canonicalJson(plan));
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", text));
  return `sha256:${Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
