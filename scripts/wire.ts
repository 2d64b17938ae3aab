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

let stale = 0;
for (const [path, text] of outputs) {
  const url = new URL(path, root);
  if (!process.argv.includes("--check")) {
    writeFileSync(url, text);
    continue;
  }
  if (readFileSync(url, "utf8") !== text) {
    console.error(`${fileURLToPath(url)} does not match agent/wire/generation-1.json: run ./x wire`);
    stale += 1;
  }
}
process.exitCode = stale === 0 ? 0 : 1;
