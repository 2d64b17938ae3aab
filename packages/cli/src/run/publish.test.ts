import { expect, test } from "vitest";
import { parsePublish } from "./publish.ts";

test.each([
  ["8080", { port: 8080, options: { hostPort: 8080 } }],
  ["80:8080", { port: 8080, options: { hostPort: 80 } }],
  ["0:8080", { port: 8080, options: { hostPort: 0 } }],
  ["192.0.2.1:80:8080", { port: 8080, options: { hostPort: 80, hostAddress: "192.0.2.1" } }],
  ["[::1]:80:8080", { port: 8080, options: { hostPort: 80, hostAddress: "::1" } }],
])("%s", (text, wanted) => expect(parsePublish(text)).toEqual(wanted));

test.each([
  "",
  "0",
  "x",
  "80:",
  ":80",
  "80:0",
  "65536",
  "1:65536",
  "::80:80",
  "1:2:3:4",
  "[]:1:2",
  "-1",
  "8e1",
  ":1:2",
])("%j is refused", (text) => expect(() => parsePublish(text)).toThrow(/--publish/));
