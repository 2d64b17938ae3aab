import { expect, test } from "vitest";
import { argvGeneration } from "./survey.ts";

test("what is saved is bound to the accelerator and the kernel, not to how fast this boot's counter is", () => {
  const slow = { kind: "tcg", tscKhz: 2_445_409 } as const;
  const generation = argvGeneration(slow, "own");
  expect(argvGeneration({ ...slow, tscKhz: 2_445_412 }, "own")).toBe(generation);
  expect(argvGeneration(slow, "stock")).not.toBe(generation);
  expect(argvGeneration({ kind: "kvm" }, "own")).not.toBe(generation);
});
