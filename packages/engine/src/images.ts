import { configOf, type Directories } from "./host/index.ts";
import type { Pulling } from "./image/pull.ts";
import { ImageStore } from "./image/store.ts";

export { baseName, buildBase } from "./image/base.ts";
export { collectGarbage, type GcOptions, type GcReport } from "./image/gc.ts";
export { prepareImage, type PrepareProgress } from "./image/prepare.ts";
export { pullImage, type PullOptions, type Pulling } from "./image/pull.ts";
export type { LayerState, OnPull, PullEvent } from "./image/pull-events.ts";
export {
  BUILT_HERE,
  ImageStore,
  NOTHING_SAID,
  type ImageConfig,
  type ImageLayer,
  type ImageOrigin,
  type ListedImage,
  type StoredImage,
} from "./image/store.ts";
export { commitLayer, type CommitOptions } from "./layer/commit.ts";
export { KeptLayers, type KeptLayer, type ListedLayer } from "./layer/kept.ts";
export { verifyImages, type Verdict } from "./image/verify.ts";

/**
 * What pulling needs of this host.
 *
 * @param insecureRegistries host and port of those that may speak plain HTTP or have a certificate nobody vouches for
 */
export function pullingOf(directories: Directories, insecureRegistries: readonly string[] = []): Pulling {
  const { state, layers, imageLimits, pullEnvironment } = configOf(directories);
  const store = new ImageStore(state);
  return { store, layersProgram: layers, environment: pullEnvironment, limits: imageLimits, insecureRegistries };
}
