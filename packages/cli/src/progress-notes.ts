import { isatty } from "node:tty";
import type { CreateOptions } from "@bulkhead/engine";
import { viewOf } from "./pull-view.ts";

/** Where somebody is watching, says what a first use is busy with; a script's standard error stays the program's own. */
export function firstUseNotes(): { readonly onProgress?: (text: string) => void } {
  if (!isatty(2)) return {};
  return { onProgress: (text) => process.stderr.write(`bulkhead: ${text}\n`) };
}

/** As above, for the pull of an image: a line for each layer, gone when the image is there. */
export function pullNotes(image: string): Pick<CreateOptions, "onPull"> {
  if (!isatty(2)) return {};
  const view = viewOf(`pulling ${image}`);
  return { onPull: (event) => view.update(event) };
}
