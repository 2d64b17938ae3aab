import { join } from "node:path";

export const keptDirectory = (stateDir: string): string => join(stateDir, "kept");

/** The file that holds the layer kept under that name. */
export const keptFile = (stateDir: string, name: string): string => join(keptDirectory(stateDir), name, "layer.ext4");
