export { baseName, buildBase } from "./image/base.ts";
export { ImageStore, NOTHING_SAID, type ImageConfig, type ListedImage, type StoredImage } from "./image/store.ts";
