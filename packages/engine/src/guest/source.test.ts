import { describe, expect, test } from "vitest";
import { parseVersion, sourceLines } from "./source.ts";

test("the version of a source package is that of its description's file", () => {
  const uri = "http://mirror.example/debian/pool/main/q/qemu";
  const uris = ["dsc", "orig.tar.xz"].map(
    (end) => `'${uri}/qemu_10.0.13%2bds-0.${end}' qemu_10.0.13+ds-0.${end} 1246 SHA256:ab`,
  );
  expect(parseVersion("qemu", uris.join("\n"))).toBe("10.0.13+ds-0");
  expect(parseVersion("other", uris.join("\n"))).toBeNull();
  expect(parseVersion("qemu", "")).toBeNull();
});

describe("lines for a list of sources", () => {
  const uri = "http://mirror.example/debian/";
  const targets = [
    `Debian|${uri}|bookworm`,
    `Debian|${uri}|bookworm`,
    `Debian|${uri}|bookworm-updates`,
    `Debian|${uri}security/|bookworm-security`,
    `Debian|${uri}|bookworm-backports`,
    `Debian|${uri}|bookworm-backports-sloppy`,
    `Debian|${uri}|experimental`,
    "Somebody|http://elsewhere.example/|stable",
    `Debian|${uri}|./ [trusted=yes]`,
    "",
  ].join("\n");

  test("are Debian's own suites, each once, and none that apt installs nothing of by itself", () => {
    expect(sourceLines(targets, "/keys.gpg", null)).toEqual(
      [`${uri} bookworm`, `${uri} bookworm-updates`, `${uri}security/ bookworm-security`].flatMap((suite) => [
        `deb [signed-by=/keys.gpg] ${suite} main`,
        `deb-src [signed-by=/keys.gpg] ${suite} main`,
      ]),
    );
  });

  test("are another release's, its security suite from where the machine has its own from", () => {
    const lines = sourceLines(targets, null, "trixie").filter((line) => line.startsWith("deb-src"));
    expect(lines).toEqual([`deb-src ${uri} trixie main`, `deb-src ${uri}security/ trixie-security main`]);
  });
});
