import { expect, test } from "vitest";
import { explainEnd } from "./end.ts";

const ended = { instance: "s", code: 0, signal: null, oomKilled: false, log: "" };

test("a panic is found in the console, whatever came before it", () => {
  const log = `\0\0noise\nKernel panic - not syncing: Out of memory\n---[ end Kernel panic - not syncing: Out of memory ]---\n`;
  const reason = explainEnd({ ...ended, log });
  expect(reason).toMatchObject({
    cause: "guest-panic",
    why: expect.stringContaining("not syncing: Out of memory") as string,
  });
  expect(reason?.console[0]).toBe("noise");
});

test("a monitor that is killed for memory is told as that, also when its guest says otherwise", () => {
  const log = "Kernel panic - not syncing: no\n";
  expect(explainEnd({ ...ended, code: null, signal: 9, oomKilled: true, log })?.cause).toBe("monitor-out-of-memory");
});

test("what is left: an end of its own, a failure of QEMU with its words, an end by the host", () => {
  expect(explainEnd(ended)?.cause).toBe("guest-off");
  expect(explainEnd({ ...ended, code: 1, log: "qemu: no\n" })).toMatchObject({
    cause: "monitor-failed",
    why: "QEMU ended with code 1: qemu: no",
  });
  expect(explainEnd({ ...ended, code: null, signal: 9 })).toBeNull();
});

test("the console cannot speak to a terminal, and is bounded", () => {
  const reason = explainEnd({ ...ended, log: `\x1b[2J\x9bx\n${"y".repeat(4000)}` });
  expect(reason?.console).toEqual(["[2Jx", "y".repeat(200)]);
});
