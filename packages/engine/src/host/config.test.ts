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

test("name servers are addresses, with a port or without", () => {
  const given = "192.0.2.53,192.0.2.53:5353,2001:db8::53,[2001:db8::53]:53";
  expect(readConfig({ BULKHEAD_RESOLVERS: given }).resolvers).toEqual(given.split(","));
  expect(readConfig({}).resolvers).toEqual([]);
  for (const bad of ["dns.example.com", "192.0.2.53:0", "192.0.2.53:99999", "2001:db8::53:x", "[192.0.2.53"]) {
    expect(() => readConfig({ BULKHEAD_RESOLVERS: bad })).toThrow(/not a name server's address/);
  }
});

test("known vulnerabilities are refused when that is said, and nothing else counts as saying it", () => {
  expect(readConfig({}).refuseKnownCves).toBe(false);
  expect(readConfig({ BULKHEAD_REFUSE_KNOWN_CVES: "1" }).refuseKnownCves).toBe(true);
  expect(() => readConfig({ BULKHEAD_REFUSE_KNOWN_CVES: "yes" })).toThrow(/neither 1 nor 0/);
});

test("what images may cost can be changed by name, and nothing else", () => {
  expect(readConfig({}).imageLimits.layers).toBe(512);
  const limits = readConfig({ BULKHEAD_IMAGE_LIMITS: "unpackedBytes=100g,entries=9,stallMs=5s" }).imageLimits;
  expect(limits).toMatchObject({ unpackedBytes: 100 * 1024 ** 3, entries: 9, stallMs: 5000, layers: 512 });
  for (const bad of ["size=1", "entries", "entries=many", "__proto__=1"]) {
    expect(() => readConfig({ BULKHEAD_IMAGE_LIMITS: bad }), bad).toThrow(/BULKHEAD_IMAGE_LIMITS/);
  }
});

test("what fetches images is told where credentials and proxies are, and no more", () => {
  const given = {
    HOME: "/root",
    HTTPS_PROXY: "http://proxy:1",
    REGISTRY_AUTH_FILE: "/a",
    AWS_SECRET: "x",
    PATH: "/evil",
  };
  const { PATH, LC_ALL: _, ...rest } = readConfig(given).pullEnvironment;
  expect(rest).toEqual({ HOME: "/root", HTTPS_PROXY: "http://proxy:1", REGISTRY_AUTH_FILE: "/a" });
  expect(PATH).not.toContain("/evil");
});
