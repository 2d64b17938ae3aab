import type { Directories } from "../host/index.ts";
import type { OnPull } from "./pull-events.ts";
import { BUILT_HERE, type ImageStore, type StoredImage } from "./store.ts";

/** How a sandbox comes to its image. */
export interface PullChoice {
  /**
   * `missing` pulls the image when it is not in the store, `always` asks its source for a newer one, `never` takes what is
   * in the store. Default: missing.
   */
  readonly pull?: "missing" | "always" | "never";
  /** Registries, by host and port, that may speak plain HTTP or have a certificate that nobody vouches for. */
  readonly insecureRegistries?: readonly string[];
  /** Told how a pull gets on. */
  readonly onPull?: OnPull;
}

/**
 * The image from the store, or brought there first. Names of what is built here, and digests, lead to no registry. What
 * pulls is loaded when something is pulled.
 *
 * @throws BulkheadError IMAGE_NOT_FOUND, IMAGE_INVALID, and what `pullImage` throws
 */
export async function obtainImage(
  store: ImageStore,
  reference: string,
  directories: Directories,
  options: PullChoice & { readonly signal?: AbortSignal },
): Promise<StoredImage> {
  const { pull = "never", insecureRegistries, onPull, signal } = options;
  if (pull === "never" || BUILT_HERE.includes(reference) || reference.startsWith("sha256:"))
    return store.resolve(reference);
  if (pull === "missing") {
    const found = store.find(reference);
    if (found?.mark === "") return found;
  }
  const { pullImage, pullingOf } = await import("../images.ts");
  return await pullImage(reference, pullingOf(directories, insecureRegistries), {
    missingOnly: pull === "missing",
    ...(onPull && { onPull }),
    ...(signal && { signal }),
  });
}
