import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { strayUnsafe, unsafeLines } from "./check-unsafe.ts";

test("unsafeLines sees code and no comment, string or character", () => {
  const source = [
    "// unsafe",
    "/* unsafe",
    "unsafe */ fn a() {}",
    'let a = "unsafe \\" unsafe"; let b = r#"" unsafe"#; let c = \'"\';',
    "#![deny(unsafe_op_in_unsafe_fn)]",
    "fn f<'a>(x: &'a u8) { unsafe { g(x) } }",
    "unsafe fn g() {}",
  ].join("\n");
  expect(unsafeLines(source)).toEqual([6, 7]);
});

test("strayUnsafe fires outside the homes only", () => {
  const root = mkdtempSync(join(tmpdir(), "bulkhead-unsafe-"));
  const put = (path: string, text: string): void => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  };
  put("scripts/unsafe-homes.txt", "# homes\n\nagent/src/sys/**/*.rs\n");
  put("agent/src/sys/mount.rs", "unsafe {}");
  put("agent/src/main.rs", "fn main() {\n unsafe {} }");
  put("target/src/x.rs", "unsafe {}");
  expect(strayUnsafe(root)).toEqual(["agent/src/main.rs:2"]);
});
