import { expect, test } from "vitest";
import { BuildMeter, type BuildProgress } from "./meter.ts";

test("follows the builder's words, counts packages, never goes backwards and never beyond its phase", () => {
  const events: BuildProgress[] = [];
  const meter = new BuildMeter((event) => events.push(event));
  meter.phase("wait");
  meter.phase("update");
  for (let index = 0; index < 1000; index += 1) meter.line(`Get:${index} http://mirror.example/ x`);
  expect(events.at(-1)?.done).toBeLessThanOrEqual(50);
  for (const line of ["downloading packages", "extracting archives", "installing essential packages"]) {
    meter.line(`I: ${line} with apt...`);
  }
  meter.line("I: installing remaining packages inside the chroot...");
  meter.line("0 upgraded, 10 newly installed, 0 to remove and 0 not upgraded.");
  for (let index = 0; index < 15; index += 1) meter.line("Unpacking python3 (3.11) ...");
  expect(events.at(-1)).toEqual({ phase: "install", label: "installing programs", done: 705, total: 1000 });
  meter.line("I: cleaning package lists and apt cache...");
  meter.phase("digest");
  meter.files(50_000);
  meter.phase("store");
  const done = events.map((event) => event.done);
  expect(done).toEqual(done.toSorted((a, b) => a - b));
  expect(done.at(-1)).toBe(960);
});
