import { join } from "node:path";
import type { Lab } from "./lab.ts";
import { output } from "./timing.ts";

/**
 * The image as a writable root for the peers that take a directory: an overlay in the bench's own mount namespace. Its
 * cost, a fraction of a millisecond, is not counted against them.
 */
export async function mountRoot(lab: Lab, image: string): Promise<string> {
  const place = await lab.path("root");
  await output(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", place]);
  lab.defer(async () => void (await output(["umount", "-l", place])));
  const [upper, work, root] = [
    await lab.path("root", "upper"),
    await lab.path("root", "work"),
    await lab.path("root", "merged"),
  ];
  await output([
    "mount",
    "-t",
    "overlay",
    "-o",
    `lowerdir=${image},upperdir=${upper},workdir=${work}`,
    "overlay",
    root,
  ]);
  lab.defer(async () => void (await output(["umount", "-l", root])));
  return root;
}

/** The image as a tar, for the peers that import one. */
export async function packImage(lab: Lab, image: string): Promise<string> {
  const tar = join(lab.directory, "image.tar");
  await output(["tar", "-C", image, "--numeric-owner", "-cf", tar, "."]);
  return tar;
}
