import type { OptionDef } from "../options.ts";
import type { VerbHelp } from "../verbs/table.ts";
import { columns } from "./style.ts";

function indent(text: string): string {
  return text.replace(/^(?=.)/gm, "  ");
}

function optionRow(def: OptionDef): readonly string[] {
  const short = def.short === undefined ? "    " : `-${def.short}, `;
  return [`${short}--${def.name}${def.value === undefined ? "" : ` ${def.value}`}`, def.help];
}

export function helpText(verb: VerbHelp): string {
  const parts = [`Usage: ${verb.usage}`, verb.summary + ".", verb.about];
  if (verb.options.length > 0) parts.push(`Options:\n${indent(columns(verb.options.map(optionRow)))}`);
  parts.push(`Examples:\n${indent(verb.examples.join("\n"))}`);
  if (verb.exitCodes !== undefined) parts.push(`Exit codes:\n${indent(columns(verb.exitCodes))}`);
  return parts.filter((part) => part !== "").join("\n\n");
}

export function overview(verbs: readonly VerbHelp[]): string {
  const rows = verbs.map((verb) => [verb.name, verb.summary]);
  const examples = verbs.find((verb) => verb.name === "run")?.examples ?? [];
  return [
    "Usage: bulkhead COMMAND [OPTIONS]",
    "Runs code you do not trust behind exactly the boundary you ask for, or refuses and says why.",
    `Commands:\n${indent(columns(rows))}`,
    `Examples:\n${indent(examples.slice(0, 2).join("\n"))}`,
    "See bulkhead help COMMAND for options, examples and exit codes.",
  ].join("\n\n");
}
