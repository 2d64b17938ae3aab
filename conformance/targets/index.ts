import { Engine } from "@bulkhead/engine";
import type { Target } from "../target.ts";
import { config } from "./config.ts";
import { driver } from "./driver.ts";
import { reference } from "./reference.ts";

async function baseRootfs(): Promise<string> {
  if (config.rootfs !== undefined) return config.rootfs;
  await using engine = await Engine.open(config.state === undefined ? {} : { state: config.state });
  return engine.images.resolve("base").rootfs;
}

const DRIVERS: readonly Target[] = [
  driver("container/crun", { level: "container", elevation: "none", ownKernel: false, snapshot: false }),
  driver("container/runc", { level: "container", elevation: "none", ownKernel: false, snapshot: false }),
  driver("gvisor/runsc", { level: "gvisor", elevation: "agent", ownKernel: true, snapshot: false }),
  driver("microvm/qemu", { level: "microvm", elevation: "setuid", ownKernel: true, snapshot: true }),
  driver(
    "microvm/qemu",
    { level: "microvm", elevation: "setuid", ownKernel: true, snapshot: false },
    { name: "microvm/qemu cold", templates: false },
  ),
];

export const DRIVER_NAMES: readonly string[] = DRIVERS.map((target) => target.name);

/** @throws Error naming what there is. */
export function targetNamed(name: string): Target {
  const found = [...DRIVERS, reference(baseRootfs)].find((target) => target.name === name);
  if (found === undefined)
    throw new Error(`there is no driver ${name}; there are ${DRIVER_NAMES.join(", ")} and reference`);
  return found;
}
