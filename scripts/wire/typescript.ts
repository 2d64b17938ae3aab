import { constant, type Field, listItem, type Message, type Schema } from "./schema.ts";

const NUMBERS = new Set(["u8", "u16", "u32", "i32"]);
const BIGS = new Set(["u64", "i64"]);

function tsType(type: string): string {
  const item = listItem(type);
  if (item !== null) return `readonly ${tsType(item)}[]`;
  if (NUMBERS.has(type)) return "number";
  if (BIGS.has(type)) return "bigint";
  if (type === "bool") return "boolean";
  if (type === "str") return "string";
  if (type === "bytes") return "Uint8Array";
  return type;
}

function write(type: string, value: string): string {
  const item = listItem(type);
  if (item !== null) return `w.list(${value}, (v) => ${write(item, "v")})`;
  if (/^[a-z]/.test(type)) return `w.${type}(${value})`;
  return `write${type}(w, ${value})`;
}

function read(type: string): string {
  const item = listItem(type);
  if (item !== null) return `r.list(() => ${read(item)})`;
  if (/^[a-z]/.test(type)) return `r.${type}()`;
  return `read${type}(r)`;
}

function codec(name: string, fields: readonly Field[]): string {
  const members = fields.map(([n, t]) => `  readonly ${n}: ${tsType(t)};`).join("\n");
  const m = fields.length === 0 ? "_m" : "m";
  const wName = fields.length === 0 ? "_w" : "w";
  const rName = fields.length === 0 ? "_r" : "r";
  const writes = fields.map(([n, t]) => `  ${write(t, `m.${n}`)};`).join("\n");
  const reads = fields.map(([n, t]) => `    ${n}: ${read(t)},`).join("\n");
  const shape =
    fields.length === 0 ? `export type ${name} = Record<never, never>;` : `export interface ${name} {\n${members}\n}`;
  return [
    shape,
    `export function write${name}(${wName}: WireWriter, ${m}: ${name}): void {`,
    writes,
    "}",
    `export function read${name}(${rName}: WireReader): ${name} {`,
    `  return {\n${reads}\n  };`,
    "}",
    "",
  ]
    .filter((line) => line !== "")
    .join("\n");
}

function messageCodec(plain: readonly Message[]): string[] {
  return [
    "export function writeMessage(w: WireWriter, message: Message): number {",
    "  switch (message.name) {",
    ...plain.map((m) => `    case "${m.name}":\n      write${m.name}(w, message.body);\n      return ${m.type};`),
    "  }",
    "}",
    "",
    "/** @returns null for a type this generation does not know. */",
    "export function readMessage(type: number, r: WireReader): Message | null {",
    "  switch (type) {",
    ...plain.map((m) => `    case ${m.type}:\n      return { name: "${m.name}", body: read${m.name}(r) };`),
    "    default:",
    "      return null;",
    "  }",
    "}",
    "",
  ];
}

export function renderTypeScript(schema: Schema): string {
  const plain = schema.messages.filter((m) => m.raw !== true);
  const parts = [
    "// Written by scripts/wire.ts from agent/wire/generation-1.json. Do not edit.",
    'import type { WireReader, WireWriter } from "./codec.ts";',
    "",
    `export const GENERATION = ${schema.generation};`,
    ...Object.entries(schema.magic).map(([n, hex]) => `export const MAGIC_${constant(n)} = "${hex}";`),
    ...Object.entries(schema.limits).map(([n, v]) => `export const ${constant(n)} = ${v};`),
    `export const LANE = ${JSON.stringify(schema.lanes)} as const;`,
    ...Object.entries(schema.enums).map(([n, v]) => `export const ${n} = ${JSON.stringify(v)} as const;`),
    "",
    ...Object.entries(schema.structs).map(([n, f]) => codec(n, f)),
    ...plain.map((m) => codec(m.name, m.fields ?? [])),
    `export const TYPE = {\n${schema.messages.map((m) => `  ${m.name}: ${m.type},`).join("\n")}\n} as const;`,
    "",
    "export type Message =",
    ...schema.messages
      .filter((m) => m.raw !== true)
      .map((m) => `  | { readonly name: "${m.name}"; readonly body: ${m.name} }`),
    "  ;",
    "",
    "export const TO_AGENT = new Set<number>([",
    `  ${schema.messages
      .filter((m) => m.to !== "host")
      .map((m) => m.type)
      .join(", ")},`,
    "]);",
    "export const TO_HOST = new Set<number>([",
    `  ${schema.messages
      .filter((m) => m.to !== "agent")
      .map((m) => m.type)
      .join(", ")},`,
    "]);",
    "export const OPENS = new Set<number>([",
    `  ${schema.messages
      .filter((m) => m.opens === true)
      .map((m) => m.type)
      .join(", ")},`,
    "]);",
    "",
    ...messageCodec(plain),
  ];
  return parts.join("\n");
}
