export { VolumeStore, type ListedVolume, type VolumeOptions } from "./volume/store.ts";
