import { describe, expect, test } from "vitest";
import { debianCodename, parseSources, withoutCredentials } from "./apt.ts";

describe("parseSources", () => {
  test("takes main of this release and its updates, once each", () => {
    const targets = [
      "Packages|Debian|bookworm|bookworm|main|http://mirror.example/debian/",
      "Packages|Debian|bookworm|bookworm|main|http://mirror.example/debian/",
      "Translations|Debian|bookworm|bookworm|main|http://mirror.example/debian/",
      "Packages|Debian|bookworm|bookworm|contrib|http://mirror.example/debian/",
      "Packages|Debian|bookworm-backports|bookworm-backports|main|http://mirror.example/debian/",
      "Packages|Debian|stable-security|bookworm-security|main|http://mirror.example/security/",
      "Packages|Docker|bookworm|bookworm|main|http://docker.example/",
      "Packages|Debian|sid|sid|main|http://mirror.example/debian/",
    ].join("\n");
    expect(parseSources(targets, "bookworm")).toEqual([
      "deb http://mirror.example/debian/ bookworm main",
      "deb http://mirror.example/security/ stable-security main",
    ]);
  });

  test("works before the first apt-get update, when apt knows no origin yet", () => {
    const targets = "Packages|$(ORIGIN)|trixie|$(CODENAME)|main|http://mirror.example/debian/\n";
    expect(parseSources(targets, "trixie")).toEqual(["deb http://mirror.example/debian/ trixie main"]);
  });
});

test("debianCodename refuses what is not Debian", () => {
  expect(debianCodename('PRETTY_NAME="x"\nID=debian\nVERSION_CODENAME=bookworm\n')).toBe("bookworm");
  expect(() => debianCodename('ID="fedora"\n')).toThrow(expect.objectContaining({ code: "HOST_UNSUPPORTED" }));
});

test("withoutCredentials keeps the rest of the line", () => {
  expect(withoutCredentials("deb https://me:secret@mirror.example/d/ sid main")).toBe(
    "deb https://mirror.example/d/ sid main",
  );
  expect(withoutCredentials("deb http://mirror.example/@d/ sid main")).toBe("deb http://mirror.example/@d/ sid main");
});
