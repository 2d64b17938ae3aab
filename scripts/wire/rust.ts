import { constant, type Field, listItem, type Message, pascal, type Schema, snake } from "./schema.ts";

function rustType(type: string): string {
  const item = listItem(type);
  if (item !== null) return `Vec<${rustType(item)}>`;
  if (type === "str") return "String";
  if (type === "bytes") return "Vec<u8>";
  return type;
}

/** An expression that writes `value`, which is a reference. */
function write(type: string, value: string): string {
  const item = listItem(type);
  if (item !== null) return `w.list(${value}, |w, v| ${write(item, "v")})`;
  if (type === "str" || type === "bytes") return `w.${type}(${value})`;
  if (/^[a-z]/.test(type)) return `w.${type}(*${value})`;
  return `(${value}).write(w)`;
}

function read(type: string): string {
  const item = listItem(type);
  if (item !== null) return `r.list(|r| ${read(item)})`;
  if (/^[a-z]/.test(type)) return `r.${type}()`;
  return `${type}::read(r)`;
}

function json(type: string, value: string): string {
  const item = listItem(type);
  if (item !== null) return `serde_json::Value::Array(${value}.iter().map(|v| ${json(item, "v")}).collect())`;
  if (type === "bytes") return `crate::wire::hex(${value}).into()`;
  if (type === "str") return `${value}.clone().into()`;
  if (type === "u64" || type === "i64") return `${value}.to_string().into()`;
  if (/^[a-z]/.test(type)) return `(*${value}).into()`;
  return `${value}.json()`;
}

function rustName(field: string): string {
  const name = snake(field);
  return name === "type" || name === "in" ? `r#${name}` : name;
}

function item(name: string, fields: readonly Field[]): string {
  const members = fields.map(([n, t]) => `    pub ${rustName(n)}: ${rustType(t)},`);
  const used = fields.length > 0 ? "" : "_";
  return [
    "#[derive(Debug, Clone, PartialEq, Eq, Default)]",
    `pub struct ${name} {`,
    ...members,
    "}",
    "",
    `impl ${name} {`,
    `    pub fn write(&self, ${used}w: &mut Writer) {`,
    ...fields.map(([n, t]) => `        ${write(t, `&self.${rustName(n)}`)};`),
    "    }",
    "",
    `    pub fn read(${used}r: &mut Reader) -> Result<Self, Malformed> {`,
    "        Ok(Self {",
    ...fields.map(([n, t]) => `            ${rustName(n)}: ${read(t)}?,`),
    "        })",
    "    }",
    "",
    "    #[cfg(test)]",
    "    pub fn json(&self) -> serde_json::Value {",
    "        #[allow(unused_mut)]",
    "        let mut map = serde_json::Map::new();",
    ...fields.map(([n, t]) => `        map.insert("${n}".into(), ${json(t, `(&self.${rustName(n)})`)});`),
    "        serde_json::Value::Object(map)",
    "    }",
    "}",
    "",
  ].join("\n");
}

function messageEnum(plain: readonly Message[]): string[] {
  return [
    "#[derive(Debug, Clone, PartialEq, Eq)]",
    "pub enum Message {",
    ...plain.map((m) => `    ${pascal(m.name)}(${m.name}),`),
    "}",
    "",
    "impl Message {",
    "    pub fn type_number(&self) -> u8 {",
    "        match self {",
    ...plain.map((m) => `            Message::${m.name}(_) => ${m.type},`),
    "        }",
    "    }",
    "",
    "    pub fn write(&self, w: &mut Writer) {",
    "        match self {",
    ...plain.map((m) => `            Message::${m.name}(m) => m.write(w),`),
    "        }",
    "    }",
    "",
    "    /// Malformed for a type this generation does not know.",
    "    pub fn read(type_number: u8, r: &mut Reader) -> Result<Self, Malformed> {",
    "        Ok(match type_number {",
    ...plain.map((m) => `            ${m.type} => Message::${m.name}(${m.name}::read(r)?),`),
    '            _ => return Err(Malformed("unknown message type")),',
    "        })",
    "    }",
    "",
    "    #[cfg(test)]",
    "    pub fn json(&self) -> (&'static str, serde_json::Value) {",
    "        match self {",
    ...plain.map((m) => `            Message::${m.name}(m) => ("${m.name}", m.json()),`),
    "        }",
    "    }",
    "}",
    "",
  ];
}

export function renderRust(schema: Schema): string {
  const plain = schema.messages.filter((m) => m.raw !== true);
  const parts = [
    "// Written by scripts/wire.ts from agent/wire/generation-1.json. Do not edit.",
    "#![allow(dead_code, unused_parens, clippy::all)]",
    "#![cfg_attr(rustfmt, rustfmt_skip)]",
    "use crate::wire::codec::{Malformed, Reader, Writer};",
    "",
    `pub const GENERATION: u8 = ${schema.generation};`,
    ...Object.entries(schema.magic).map(([n, hex]) => {
      const bytes = (hex.match(/../g) ?? []).map((b) => `0x${b}`).join(", ");
      return `pub const MAGIC_${constant(n)}: [u8; 16] = [${bytes}];`;
    }),
    ...Object.entries(schema.limits).map(([n, v]) => `pub const ${constant(n)}: usize = ${v};`),
    ...Object.entries(schema.lanes).map(([n, v]) => `pub const LANE_${constant(n)}: u8 = ${v};`),
    "",
    ...Object.entries(schema.enums).flatMap(([n, values]) => [
      `pub mod ${snake(n).replace(/^_/, "")} {`,
      ...Object.entries(values).map(
        ([k, v]) => `    pub const ${constant(k)}: ${n === "ErrorKind" ? "u16" : "u8"} = ${v};`,
      ),
      "}",
    ]),
    "",
    "pub mod message_type {",
    ...schema.messages.map((m) => `    pub const ${constant(m.name).replace(/^_/, "")}: u8 = ${m.type};`),
    "}",
    "",
    ...Object.entries(schema.structs).map(([n, f]) => item(n, f)),
    ...plain.map((m) => item(m.name, m.fields ?? [])),
    ...messageEnum(plain),
  ];
  return parts.join("\n");
}
