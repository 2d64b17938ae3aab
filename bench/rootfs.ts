import { join } from "node:path";
import type { Lab } from "./lab.ts";
import { output } from "./timing.ts";

/** A writable root made of the image for one sandbox, in the bench's own mount namespace. */
export interface Root extends AsyncDisposable {
  readonly path: string;
}

/**
 * Makes writable roots: an overlay each, as every engine mounts one for each container. A new one has no looked-up names
 * cached, which a start pays for; making it is not counted against the peers that take a directory.
 */
export async function rootMaker(lab: Lab, image: string): Promise<() => Promise<Root>> {
  const place = await lab.path("roots");
  await output(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", place]);
  lab.defer(async () => void (await output(["umount", "-l", place])));
  return async () => {
    const id = lab.id();
    const part = (name: string): Promise<string> => lab.path("roots", id, name);
    const [upper, work, path] = [await part("upper"), await part("work"), await part("merged")];
    const options = `lowerdir=${image},upperdir=${upper},workdir=${work}`;
    await output(["mount", "-t", "overlay", "-o", options, "overlay", path]);
    return { path, [Symbol.asyncDispose]: async () => void (await output(["umount", "-l", path])) };
  };
}

/** The image as a tar, for the peers that import one. */
export async function packImage(lab: Lab, image: string): Promise<string> {
  const tar = join(lab.directory, "image.tar");
  await output(["tar", "-C", image, "--numeric-owner", "-cf", tar, "."]);
  return tar;
}
