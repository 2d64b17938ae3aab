import { expect, test } from "vitest";
import { cpuWeight } from "./oci.ts";

const v2 = { cgroup: { mode: "v2", controllers: ["cpu"], swap: true } } as const;
const v1 = { cgroup: { mode: "v1", controllers: ["cpu"], swap: true } } as const;

/** What runtimes make of shares: 2 to 262,144 become 1 to 10,000, rounded down. */
const converted = (shares: number): number => 1 + Math.floor(((shares - 2) * 9_999) / 262_142);

test("every weight comes out as it was asked for where a runtime converts from shares", () => {
  for (let weight = 1; weight <= 10_000; weight += 1) {
    const { cpu } = cpuWeight(weight, v2, false) as { cpu: { shares: number } };
    expect(converted(cpu.shares)).toBe(weight);
  }
});

test("a weight is said in the words of the host's control groups", () => {
  expect(cpuWeight(50, v1, true)).toEqual({ cpu: { shares: 512 }, unified: {} });
  expect(cpuWeight(50, v2, true)).toEqual({ cpu: {}, unified: { unified: { "cpu.weight": "50" } } });
  expect(cpuWeight(null, v2, true)).toEqual({ cpu: {}, unified: {} });
});
