import { cloneCommands } from "./qemu.ts";

/** Descriptors that a clone's QEMU inherits. The control FIFO's own ends only keep what was written from being lost. */
export const CLONE_FDS = { state: 3, memory: 4, controlIn: 5, controlOut: 6, console: 7 } as const;
/** The same as a number of descriptors above 2, for the runtime's `--preserve-fds`. */
export const PRESERVED_FDS = 5;

/** Opens everything on its number, fills the control FIFO, and becomes the runtime: no other process is left. */
const SCRIPT =
  `exec ${CLONE_FDS.state}<"$1" ${CLONE_FDS.memory}<>"$2" ${CLONE_FDS.controlIn}<>"$3.in" ` +
  `${CLONE_FDS.controlOut}<>"$3.out" ${CLONE_FDS.console}>&2; ` +
  `printf '%s' "$4" >&${CLONE_FDS.controlIn}; shift 4; exec "$@"`;

export interface CloneFiles {
  /** Device state that the template wrote. */
  readonly state: string;
  /** A memory file sealed against writing, such as `/proc/<holder>/fd/<n>`. */
  readonly memory: string;
  /** `<control>.in` and `<control>.out` are FIFOs that QEMU's user may open. */
  readonly control: string;
}

/** What the keeper runs to start a clone, with the channel as standard streams: `runtime` with the descriptors it passes on. */
export function launchArgv(files: CloneFiles, runtime: readonly string[]): readonly string[] {
  const commands = cloneCommands(CLONE_FDS.state);
  return ["/bin/sh", "-c", SCRIPT, "sh", files.state, files.memory, files.control, commands, ...runtime];
}
