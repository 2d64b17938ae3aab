import { createHash } from "node:crypto";
import { readFile, rename, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { initramfs, type InitramfsEntry } from "../../packages/engine/src/guest/initramfs.ts";
import { REPOSITORY } from "./common.ts";
import type { SystemImage } from "./image.ts";

/** The initial root: what brings the test host to its system's disk, and the agent that is its control channel. */
export async function initialRoot(
  home: string,
  image: SystemImage,
): Promise<{ readonly path: string; readonly key: string }> {
  const guest = join(import.meta.dirname, "guest");
  const file = async (path: string, source: string): Promise<InitramfsEntry> => ({
    path,
    mode: 0o755,
    kind: "file",
    data: await readFile(source),
  });
  const directories = ["bin", "dev", "modules", "proc", "sys", "system"];
  const archive = initramfs([
    ...directories.map((path) => ({ path, mode: 0o755, kind: "directory" as const })),
    { path: "dev/console", mode: 0o600, kind: "character", device: [5, 1] },
    { path: "dev/null", mode: 0o666, kind: "character", device: [1, 3] },
    await file("bin/busybox", image.busybox),
    await file("init", join(guest, "initramfs.sh")),
    await file("start.sh", join(guest, "start.sh")),
    await file("agent", join(REPOSITORY, "target/release/bulkhead-agent")),
    ...(await Promise.all(image.modules.map((path) => file(`modules/${basename(path)}`, path)))),
  ]);
  const key = createHash("sha256").update(image.key).update(archive).digest("hex").slice(0, 16);
  const path = join(home, `initramfs-${key}`);
  // Whoever reads it meanwhile has the same bytes.
  await writeFile(`${path}.${process.pid}`, archive);
  await rename(`${path}.${process.pid}`, path);
  return { path, key };
}
