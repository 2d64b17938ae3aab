import { statSync } from "node:fs";
import { erofsImage, erofsPart } from "../guest/erofs.ts";
import type { ImageStore } from "./store.ts";

const POLL_MS = 500;

/** Bytes of the file that is being made, of about so many. */
export interface PrepareProgress {
  readonly done: number;
  readonly total: number;
}

/**
 * Makes ahead what microVMs need of an image, so that the first of them does not wait for it.
 *
 * @returns path and bytes of the file, which was there already or is there now
 * @throws BulkheadError IMAGE_NOT_FOUND, IMAGE_INVALID, IMAGE_BUILD_FAILED, HOST_UNSUPPORTED, TIMEOUT, ABORTED
 */
export async function prepareImage(
  store: ImageStore,
  reference: string,
  options: {
    readonly signal?: AbortSignal;
    readonly onWait?: () => void;
    readonly onProgress?: (progress: PrepareProgress) => void;
  } = {},
): Promise<{ readonly path: string; readonly bytes: number }> {
  await using image = store.use(reference);
  const { onProgress } = options;
  const look = (): void => {
    const done = statSync(erofsPart(image), { throwIfNoEntry: false })?.size;
    if (done !== undefined) onProgress?.({ done, total: image.config.sizeBytes });
  };
  const timer = setInterval(look, POLL_MS);
  try {
    const path = await erofsImage(image, options);
    return { path, bytes: statSync(path).size };
  } finally {
    clearInterval(timer);
  }
}
