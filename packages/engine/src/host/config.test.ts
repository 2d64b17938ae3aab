import { expect, test } from "vitest";
import { readConfig } from "./config.ts";

test("defaults are absolute paths, and the environment goes before them", () => {
  expect(readConfig({})).toMatchObject({ state: "/var/lib/bulkhead", run: "/run/bulkhead" });
  expect(readConfig({ BULKHEAD_STATE: "/s", BULKHEAD_RUN: "/r", PATH: "/a:relative::/b" })).toMatchObject({
    state: "/s",
    run: "/r",
    searchPath: ["/a", "/b"],
  });
});

test("a relative path is refused by name", () => {
  expect(() => readConfig({ BULKHEAD_STATE: "here" })).toThrow(/BULKHEAD_STATE is "here"/);
});

test("known vulnerabilities are refused when that is said, and nothing else counts as saying it", () => {
  expect(readConfig({}).refuseKnownCves).toBe(false);
  expect(readConfig({ BULKHEAD_REFUSE_KNOWN_CVES: "1" }).refuseKnownCves).toBe(true);
  expect(() => readConfig({ BULKHEAD_REFUSE_KNOWN_CVES: "yes" })).toThrow(/neither 1 nor 0/);
});
