import type { Check } from "../check.ts";
import { boundaryChecks } from "./boundary.ts";
import { copyChecks } from "./copy.ts";
import { crashChecks } from "./crash.ts";
import { dialChecks } from "./dial.ts";
import { egressChecks } from "./egress.ts";
import { egressEdgeChecks } from "./egress-edge.ts";
import { egressPolicyChecks } from "./egress-policy.ts";
import { enduranceChecks } from "./endurance.ts";
import { execChecks } from "./exec.ts";
import { fileChecks } from "./files.ts";
import { imageChecks } from "./image.ts";
import { layerChecks } from "./layer.ts";
import { limitChecks } from "./limits.ts";
import { limitEventChecks } from "./limit-events.ts";
import { limitMeasureChecks } from "./limit-measures.ts";
import { microvmChecks } from "./microvm.ts";
import { microvmMountChecks } from "./microvm-mounts.ts";
import { mountChecks } from "./mounts.ts";
import { neighbourChecks } from "./neighbours.ts";
import { planChecks } from "./plan.ts";
import { processChecks } from "./processes.ts";
import { ptyChecks } from "./pty.ts";
import { stateChecks } from "./state.ts";
import { storageChecks } from "./storage.ts";
import { streamChecks } from "./streams.ts";
import { sudoChecks } from "./sudo.ts";
import { volumeChecks } from "./volumes.ts";
import { watchChecks } from "./watch.ts";

/** In the order they run: what others rest on first, what takes longest last. */
export const CHECKS: readonly Check[] = [
  ...execChecks,
  ...streamChecks,
  ...ptyChecks,
  ...processChecks,
  ...fileChecks,
  ...copyChecks,
  ...watchChecks,
  ...dialChecks,
  ...egressChecks,
  ...egressPolicyChecks,
  ...egressEdgeChecks,
  ...boundaryChecks,
  ...planChecks,
  ...microvmChecks,
  ...imageChecks,
  ...storageChecks,
  ...mountChecks,
  ...microvmMountChecks,
  ...volumeChecks,
  ...stateChecks,
  ...sudoChecks,
  ...limitChecks,
  ...limitEventChecks,
  ...limitMeasureChecks,
  ...layerChecks,
  ...neighbourChecks,
  ...crashChecks,
  ...enduranceChecks,
];
