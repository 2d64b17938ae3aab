import { BulkheadError } from "@bulkhead/contract";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { isLoopback, nameFits, parseReference } from "./reference.ts";

const HEX = "a".repeat(64);

describe("parseReference", () => {
  test.each([
    ["python", "docker.io/library/python:latest"],
    ["python:3.12-slim", "docker.io/library/python:3.12-slim"],
    ["team/app", "docker.io/team/app:latest"],
    ["docker.io/library/x", "docker.io/library/x:latest"],
    ["docker.io/x", "docker.io/library/x:latest"],
    ["index.docker.io/x", "docker.io/library/x:latest"],
    ["docker://quay.io/a/b/c:Tag_1.x", "quay.io/a/b/c:Tag_1.x"],
    ["localhost/x", "localhost/x:latest"],
    ["localhost:5000/x:1", "localhost:5000/x:1"],
    ["Registry.Example/x", "registry.example/x:latest"],
    ["[::1]:5000/x", "[::1]:5000/x:latest"],
    ["127.0.0.1:5000/x_y__z/a-b--c", "127.0.0.1:5000/x_y__z/a-b--c:latest"],
    [`x@sha256:${HEX}`, `docker.io/library/x@sha256:${HEX}`],
    [`x:1@sha256:${HEX}`, `docker.io/library/x@sha256:${HEX}`],
    ["docker:20", "docker.io/library/docker:20"],
    ["oci:dir", "oci:/base/dir"],
    ["oci:./a/../dir:1.0", "oci:/base/dir:1.0"],
    ["oci-archive:/x/y.tar", "oci-archive:/x/y.tar"],
    ["docker-archive:y.tar:team/app:1", "docker-archive:/base/y.tar:team/app:1"],
    ["rootfs:/srv/root", "rootfs:/srv/root"],
  ])("%s is %s", (text, name) => {
    const source = parseReference(text, "/base");
    expect(source.name).toBe(name);
    // A whole reference means itself.
    expect(parseReference(source.name, "/elsewhere")).toEqual(source);
  });

  test.each([
    ["", /empty/],
    ["Python", /upper-case/],
    ["a//b", /empty/],
    ["a/", /empty/],
    ["x:", /no tag/],
    ["x:ta g", /no tag/],
    ["x@sha256:abc", /no digest/],
    [`x@sha512:${HEX}${HEX}`, /no digest/],
    ["https://registry.example/x", /no scheme/],
    ["registry.example:99999/x", /no host name/],
    ["-x.example/y", /no host name/],
    ["x y", /no part of a name/],
    ["../x", /no host name/],
    ["a___b", /no part of a name/],
    [`registry.example/${"x".repeat(200)}`, /characters/],
    ["oci:", /no path/],
    ["rootfs:", /no path/],
    ["rootfs:/a:b", /colon/],
    ["oci:/a:-b", /no name of an image/],
    ["oci:/a\nb", /no path/],
  ])("%j is refused", (text, why) => {
    expect(() => parseReference(text, "/base")).toThrow(
      expect.objectContaining({
        code: "SPEC_INVALID",
        why: expect.stringMatching(why),
        next: expect.stringMatching(/./),
      }),
    );
  });

  test("a Dockerfile is refused with what to do instead", () => {
    expect(() => parseReference("dockerfile:.")).toThrow(
      expect.objectContaining({ code: "NOT_SUPPORTED", next: expect.stringContaining("buildah build") }),
    );
  });

  test(
    "whatever is given is refused by type, or has one name that fits, means itself and starts no option",
    { timeout: 60_000 },
    () => {
      const part = fc.stringMatching(/^[a-zA-Z0-9._:/@-]{0,40}$/);
      const prefix = fc.constantFrom("", "oci:", "rootfs:", "docker://", "localhost:5000/", "x@sha256:");
      const any = fc.oneof(
        fc.string({ unit: "binary", maxLength: 300 }),
        fc.tuple(prefix, part).map((both) => both.join("")),
      );
      fc.assert(
        fc.property(any, (text) => {
          let source;
          try {
            source = parseReference(text, "/base");
          } catch (error) {
            return error instanceof BulkheadError && ["SPEC_INVALID", "NOT_SUPPORTED"].includes(error.code);
          }
          expect(nameFits(source.name)).toBe(true);
          expect(source.name).toMatch(/^[^\0-\x1f-]/);
          expect(parseReference(source.name, "/elsewhere")).toEqual(source);
          return true;
        }),
        { numRuns: 300 },
      );
    },
  );
});

test("loopback is what no packet leaves this machine for", () => {
  for (const host of ["localhost", "localhost:5000", "127.0.0.1", "127.8.9.10:1", "[::1]:5000"])
    expect(isLoopback(host)).toBe(true);
  for (const host of ["0.0.0.0:1", "128.0.0.1", "127.0.0.1.example", "localhost.example", "10.0.0.1"]) {
    expect(isLoopback(host), host).toBe(false);
  }
});
