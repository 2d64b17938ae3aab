import { mkdtemp, rm } from "node:fs/promises";
import { parseSpec, type SpecInput } from "@bulkhead/contract";
import { expect, onTestFinished, test } from "vitest";
import { chooseLayer, type ChosenLayer } from "./layer.ts";
import { resolveSpec } from "./defaults.ts";

const MIB = 2 ** 20;
const CGROUP = { mode: "v2", controllers: ["cpu", "io", "blkio"], swap: true } as const;
const AT_HOST = { diskThrottle: "cgroup", layerWriter: "host" } as const;
const AT_GUEST = { diskThrottle: "monitor", layerWriter: "guest" } as const;

interface Scene {
  readonly loopDevices?: boolean;
  readonly cgroup?: { readonly mode: "v1" | "v2"; readonly controllers: readonly string[]; readonly swap: boolean };
}

async function chosen(input: SpecInput, at: typeof AT_HOST | typeof AT_GUEST, scene: Scene = {}): Promise<ChosenLayer> {
  const { loopDevices = true, cgroup = CGROUP } = scene;
  // On a disk on every host.
  const state = await mkdtemp("/var/tmp/bulkhead-layer-");
  onTestFinished(() => rm(state, { recursive: true, force: true }));
  const paths = { state, run: state, agent: "", keeper: "", layers: "", layer: "", sudoLayer: "" };
  const choice = { level: "container", reasons: [] } as const;
  const spec = { ...resolveSpec(parseSpec(input), choice, { memoryBytes: 2 ** 40 }, {}), mounts: [], makes: [] };
  return await chooseLayer(spec, at, { loopDevices, cgroup, paths });
}

test("a layer is a file on disk unless memory is asked for", async () => {
  expect(await chosen({}, AT_HOST)).toMatchObject({ layer: { backing: "file", keep: null }, diskBytes: 2 ** 30 });
  expect(await chosen({ keep: "a" }, AT_HOST)).toMatchObject({ layer: { backing: "file", keep: "a" } });
  const memory = await chosen({ diskBacking: "memory", diskInodes: 70 }, AT_HOST);
  expect(memory).toMatchObject({ layer: { backing: "memory", keep: null }, diskInodes: 70 });
  expect(memory.layerReason).toMatch(/counts against the memory limit/);
});

test("sizes are what a file can have exactly", async () => {
  const { diskBytes, diskInodes } = await chosen({ diskBytes: 64 * MIB + 5, diskInodes: 200 }, AT_HOST);
  expect([diskBytes, diskInodes]).toEqual([64 * MIB, 192]);
});

test("where a file cannot be had the layer is memory, with the reason, and refused where it was asked for", async () => {
  const few = { diskInodes: 64 };
  expect(await chosen(few, AT_HOST)).toMatchObject({ layer: { backing: "memory" }, diskInodes: 64 });
  await expect(chosen({ ...few, diskBacking: "file" }, AT_HOST)).rejects.toMatchObject({ code: "LIMIT_UNSUPPORTED" });
  await expect(chosen({ ...few, keep: "a" }, AT_HOST)).rejects.toMatchObject({ code: "LIMIT_UNSUPPORTED" });
  await expect(chosen(few, AT_GUEST)).rejects.toMatchObject({ code: "LIMIT_UNSUPPORTED" });
  const bare = { loopDevices: false };
  expect((await chosen({}, AT_HOST, bare)).layerReason).toMatch(/loop-control/);
  expect(await chosen({}, AT_GUEST, bare)).toMatchObject({ layer: { backing: "file" } });
  await expect(chosen({ keep: "a" }, AT_HOST, bare)).rejects.toMatchObject({ code: "HOST_UNSUPPORTED" });
});

test("a limit on disk traffic that would not hold for a file is not given one", async () => {
  const limited = { diskBytesPerSecond: MIB };
  const v1 = { cgroup: { ...CGROUP, mode: "v1" } } as const;
  const memory = await chosen(limited, AT_HOST, v1);
  expect(memory.layer.backing).toBe("memory");
  expect(memory.layerReason).toMatch(/in nobody's name/);
  await expect(chosen({ ...limited, keep: "a" }, AT_HOST, v1)).rejects.toMatchObject({ code: "LIMIT_UNSUPPORTED" });
  await expect(chosen({ ...limited, diskBacking: "file" }, AT_HOST, v1)).rejects.toMatchObject({
    code: "LIMIT_UNSUPPORTED",
  });
  expect((await chosen(limited, AT_GUEST, v1)).layer.backing).toBe("file");
});

test("memory that would be kept, or be a guest's disk, is refused", async () => {
  await expect(chosen({ diskBacking: "memory", keep: "a" }, AT_HOST)).rejects.toMatchObject({ code: "SPEC_INVALID" });
  await expect(chosen({ diskBacking: "memory" }, AT_GUEST)).rejects.toMatchObject({ code: "NOT_SUPPORTED" });
});
