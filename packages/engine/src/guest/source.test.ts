import { describe, expect, test } from "vitest";
import { parseSource, sourceLines } from "./source.ts";

describe("the source of a package", () => {
  test.each([
    ["Package: a\nSource: b (1:2-3)\nVersion: 1:2-3+b1\n", { name: "b", version: "1:2-3" }],
    ["Package: a\nSource: b\nVersion: 4\n", { name: "b", version: "4" }],
    ["Package: a\nVersion: 4\n", { name: "a", version: "4" }],
  ])("is read from %j", (shown, source) => expect(parseSource("a", "4", shown)).toEqual(source));
});

describe("lines for a list of sources", () => {
  const uri = "http://mirror.example/debian/";
  const targets = [
    `Debian|${uri}|bookworm`,
    `Debian|${uri}|bookworm`,
    `Debian|${uri}|bookworm-security`,
    "Somebody|http://elsewhere.example/|stable",
    `Debian|${uri}|./ [trusted=yes]`,
    "",
  ].join("\n");

  test("are Debian's own suites, each once", () => {
    expect(sourceLines(targets, "/keys.gpg")).toEqual([
      `deb-src [signed-by=/keys.gpg] ${uri} bookworm main`,
      `deb-src [signed-by=/keys.gpg] ${uri} bookworm-security main`,
    ]);
  });

  test("leave trust to the machine where it has no keyring of Debian's", () => {
    expect(sourceLines(targets, null)[0]).toBe(`deb-src ${uri} bookworm main`);
  });
});
