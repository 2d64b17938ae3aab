import { globSync, readFileSync } from "node:fs";
import { join, matchesGlob } from "node:path";

/** Comments, then strings (raw ones too) and characters; what is left is code. */
const NOT_CODE =
  /\/\/[^\n]*|\/\*[\s\S]*?\*\/|\bb?r(#*)"[\s\S]*?"\1|b?"(?:[^"\\]|\\[\s\S])*"|'(?:[^'\\\n]|\\[^\n]{1,8}?)'/g;

/** Lines, from 1, on which a Rust source uses the word `unsafe` as code. */
export function unsafeLines(source: string): readonly number[] {
  const code = source.replace(NOT_CODE, (text) => text.replace(/[^\n]/g, " "));
  return code.split("\n").flatMap((line, index) => (/\bunsafe\b/.test(line) ? [index + 1] : []));
}

/** Globs of the list, comments and empty lines left out. */
export function parseHomes(text: string): readonly string[] {
  return text.split("\n").flatMap((line) => (line.trim() === "" || line.startsWith("#") ? [] : [line.trim()]));
}

/** @returns `path:line` of each use outside the homes */
export function strayUnsafe(root: string): readonly string[] {
  const homes = parseHomes(readFileSync(join(root, "scripts/unsafe-homes.txt"), "utf8"));
  const files = globSync(["*/src/**/*.rs", "*/tests/**/*.rs", "*/build.rs"], {
    cwd: root,
    exclude: ["target", "node_modules"],
  });
  return files.toSorted().flatMap((file) => {
    if (homes.some((home) => matchesGlob(file, home))) return [];
    return unsafeLines(readFileSync(join(root, file), "utf8")).map((line) => `${file}:${line}`);
  });
}

if (import.meta.main) {
  const stray = strayUnsafe(join(import.meta.dirname, ".."));
  for (const place of stray) console.log(`${place}: unsafe outside its homes, which scripts/unsafe-homes.txt lists`);
  process.exitCode = stray.length === 0 ? 0 : 1;
}
