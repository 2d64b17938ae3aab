import { describe, expect, test } from "vitest";
import { BulkheadError } from "./errors.ts";
import { parseSpec } from "./spec.ts";

const VALUE = "Bearer s3cr3t-abcdef";
const good = { host: "API.Example.com.", header: "Authorization", value: VALUE };

function failure(secrets: unknown): BulkheadError {
  try {
    parseSpec({ secrets });
  } catch (error) {
    if (error instanceof BulkheadError) return error;
    throw error;
  }
  throw new Error("accepted");
}

test("secrets are read to their canonical form, and that to itself", () => {
  const { secrets } = parseSpec({ secrets: [good] });
  expect(secrets).toEqual([{ host: "api.example.com", header: "authorization", value: VALUE }]);
  expect(parseSpec({ secrets }).secrets).toEqual(secrets);
});

describe("a refusal names the field and shows nothing of the secret", () => {
  test.each([
    ["a wildcard", [{ ...good, host: "*.example.com" }], "secrets[0].host"],
    ["an address", [{ ...good, host: "192.0.2.1" }], "secrets[0].host"],
    ["a port", [{ ...good, host: "api.example.com:443" }], "secrets[0].host"],
    ["the secret as the host", [{ ...good, host: VALUE }], "secrets[0].host"],
    ["a header that frames", [{ ...good, header: "Transfer-Encoding" }], "secrets[0].header"],
    ["the Host", [{ ...good, header: "host" }], "secrets[0].header"],
    ["the secret as the header", [{ ...good, header: VALUE }], "secrets[0].header"],
    ["a second line", [{ ...good, value: `${VALUE}\r\nx: y` }], "secrets[0].value"],
    ["a line feed at the end", [{ ...good, value: `${VALUE}\n` }], "secrets[0].value"],
    ["a zero byte", [{ ...good, value: `${VALUE}\0` }], "secrets[0].value"],
    ["nothing", [{ ...good, value: "" }], "secrets[0].value"],
    ["too much", [{ ...good, value: VALUE.repeat(1000) }], "secrets[0].value"],
    ["no text", [{ ...good, value: [VALUE] }], "secrets[0].value"],
    ["one twice", [good, { ...good, host: "api.example.com" }], "secrets[1]"],
    ["a field too many", [{ ...good, [VALUE]: 1 }], "secrets[0]"],
    ["no list", VALUE, "secrets"],
    ["a text in the list", [VALUE], "secrets[0]"],
    ["too many", Array.from({ length: 65 }, () => good), "secrets"],
  ])("%s", (_, secrets, field) => {
    const error = failure(secrets);
    expect([error.code, error.details["field"]]).toEqual(["SPEC_INVALID", field]);
    expect(JSON.stringify([error.message, error.why, error.next, error.details, error.stack])).not.toContain("s3cr3t");
  });
});
