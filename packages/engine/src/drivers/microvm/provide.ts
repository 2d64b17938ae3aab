import { erofsImage } from "../../guest/erofs.ts";
import type { Help, ImageFiles } from "../driver.ts";

/** The image as a guest sees it, made at its first use. */
export async function ensureErofs(image: ImageFiles, { signal, onProgress }: Help): Promise<void> {
  await erofsImage(image, {
    onBuild: () => onProgress?.(`packing image ${image.reference} for guests`),
    onWait: () => onProgress?.(`waiting for another process that packs image ${image.reference}`),
    ...(signal && { signal }),
  });
}
