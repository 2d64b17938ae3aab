/**
 * Turns agent/wire/generation-1.json into the codecs of both ends:
 *   node scripts/wire.ts          writes them
 *   node scripts/wire.ts --check  fails when what is in the tree is not what the schema says
 */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { renderRust } from "./wire/rust.ts";
import type { Schema } from "./wire/schema.ts";
import { renderTypeScript } from "./wire/typescript.ts";

const root = new URL("..", import.meta.url);
const schema = JSON.parse(readFileSync(new URL("agent/wire/generation-1.json", root), "utf8")) as Schema;
const outputs: readonly (readonly [string, string])[] = [
  ["packages/engine/src/channel/wire.gen.ts", renderTypeScript(schema)],
  ["agent/src/wire/generated.rs", renderRust(schema)],
];

const check = process.argv.includes("--check");
const stale = outputs.filter(([path, text]) => {
  const url = new URL(path, root);
  if (!check) writeFileSync(url, text);
  return readFileSync(url, "utf8") !== text;
});
for (const [path] of stale) {
  console.error(`${fileURLToPath(new URL(path, root))} does not match agent/wire/generation-1.json: run ./x wire`);
}
process.exitCode = stale.length === 0 ? 0 : 1;
