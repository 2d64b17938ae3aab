export { baseName, buildBase, type BuildBaseOptions } from "./image/base.ts";
export type { BuildPhase, BuildProgress, OnBuildProgress } from "./image/meter.ts";
export { ImageStore, type ImageConfig, type ListedImage, type StoredImage } from "./image/store.ts";
