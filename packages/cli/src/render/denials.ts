import type { Denial } from "@bulkhead/engine";
import { printable, type Style } from "./style.ts";

/** More lines than this say less than how many they are. */
const MAX_LINES = 20;

/** @returns the option that would allow what was denied, or null when none can. */
export function allowingOption({ allow }: Denial): string | null {
  return allow === null ? null : `--network allow:${allow}`;
}

function line(denial: Denial, style: Style): string {
  const option = allowingOption(denial);
  const next = option === null ? "" : `; to allow it: ${option}`;
  return `${style.yellow("bulkhead: denied:")} ${printable(denial.why)}${next}\n`;
}

/** One line for each distinct thing that a program tried and was not let do; empty when there was none. */
export function renderDenials(denials: readonly Denial[], style: Style): string {
  const lines = denials.slice(-MAX_LINES).map((denial) => line(denial, style));
  const more = denials.length - lines.length;
  return (more > 0 ? `${style.yellow("bulkhead: denied:")} ${more} more before these\n` : "") + lines.join("");
}
