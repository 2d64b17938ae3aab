export { baseName, buildBase } from "./image/base.ts";
export { KeptLayers, type KeptLayer, type ListedLayer } from "./layer/kept.ts";
export { ImageStore, NOTHING_SAID, type ImageConfig, type ListedImage, type StoredImage } from "./image/store.ts";
