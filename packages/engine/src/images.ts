export { baseName, buildBase } from "./image/base.ts";
export { ImageStore, type ImageConfig, type ListedImage, type StoredImage } from "./image/store.ts";
