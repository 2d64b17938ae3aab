import { expect, test } from "vitest";
import { nearest } from "./suggest.ts";

test.each([
  ["gvisr", "gvisor"],
  ["GVISOR", "gvisor"],
  ["micro", "microvm"],
  ["contianer", "container"],
])("%s is taken for %s", (given, word) => expect(nearest(given, ["container", "gvisor", "microvm"])).toBe(word));

test.each(["", "docker", "x"])("%j is taken for nothing", (given) => {
  expect(nearest(given, ["container", "gvisor", "microvm"])).toBeUndefined();
});
