import { expect, test } from "vitest";
import { BuildMeter, type BuildProgress, countedLines, numberedLines } from "./build-meter.ts";

const PHASES = ["download", "unpack", "configure", "compile"] as const;

test.each([
  ["counted", countedLines(/^ {2}CC /, 1436), (i: number) => `  CC      file-${i}.o`],
  ["numbered", numberedLines(), (i: number) => `[${i % 1000}/900] Compiling C object file-${i}.o`],
])("progress by %s lines never goes backwards and ends with done", (_name, shareOf, line) => {
  const seen: BuildProgress[] = [];
  const meter = new BuildMeter(shareOf, (event) => seen.push(event));
  for (const phase of PHASES) meter.phase(phase);
  for (let i = 0; i < 5000; i += 1) meter.line(line(i));
  meter.line("warning: nothing that counts");
  meter.phase("done");
  const values = seen.map((event) => event.done);
  expect(values).toEqual([...values].sort((a, b) => a - b));
  expect(values.length).toBeGreaterThan(100);
  expect(seen.at(-2)?.done).toBeLessThan(1000);
  expect(seen.at(-1)).toEqual({ phase: "done", label: "done", done: 1000, total: 1000 });
});
