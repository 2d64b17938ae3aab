import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { isOlder, type MonitorInputs, monitorInputsDigest } from "./monitor.ts";

test("every input changes the digest", () => {
  const inputs: MonitorInputs = { devices: "a", source: { name: "b", version: "1" }, compiler: "c", libraries: "d" };
  const others = [
    { devices: "other" },
    { source: { name: "b", version: "2" } },
    { compiler: "other" },
    { libraries: "other" },
  ];
  const all = [inputs, ...others.map((other) => ({ ...inputs, ...other }))].map(monitorInputsDigest);
  expect(new Set(all).size).toBe(all.length);
});

test("a guest's machine has no device that reaches a network, a screen or another machine's bus", () => {
  const devices = readFileSync(new URL("../../../../guest/monitor.mak", import.meta.url), "utf8");
  const on = devices.split("\n").flatMap((line) => /^CONFIG_(\w+)=y$/.exec(line)?.[1] ?? []);
  expect(on.sort()).toEqual(["MICROVM", "VIRTIO_9P", "VIRTIO_BLK", "VIRTIO_SERIAL"]);
});

test.each([
  ['ID=debian\nVERSION_ID="12"\n', true],
  ["VERSION_ID=11\n", true],
  ['VERSION_ID="13"\n', false],
  ["ID=debian\nVERSION_CODENAME=forky\n", false],
])("whether a release gets a newer one's QEMU is told by %j", (text, expected) => {
  expect(isOlder(text)).toBe(expected);
});
