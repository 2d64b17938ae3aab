import { BulkheadError, type Plan, type Spec } from "@bulkhead/contract";
import { signalName, signalNumber } from "../sandbox/signals.ts";

/** As long as container engines wait. */
const DEFAULT_STOP_TIMEOUT_MS = 10_000;
const DEFAULT_STOP_SIGNAL = "SIGTERM";

/** What an image says about itself and about what runs from it. */
export interface ImageProgram {
  readonly entrypoint?: readonly string[] | undefined;
  readonly cmd?: readonly string[] | undefined;
  readonly stopSignal?: string | null | undefined;
  readonly exposedPorts?: readonly string[] | undefined;
  readonly volumes?: readonly string[] | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
}

/** What runs unless a caller says otherwise, how it is ended, and what the image tells people. */
export interface Program {
  readonly run: Pick<Plan["process"], "entrypoint" | "cmd" | "stop">;
  readonly says: Pick<Plan["image"], "exposedPorts" | "volumes" | "labels">;
}

/** @throws BulkheadError SPEC_INVALID; IMAGE_INVALID where it is the image's */
function stopSignal(asked: string | undefined, image: string | null): string {
  if (asked !== undefined) return signalName(signalNumber(asked));
  try {
    return signalName(signalNumber(image ?? DEFAULT_STOP_SIGNAL));
  } catch (cause) {
    throw new BulkheadError("IMAGE_INVALID", {
      what: `the image's stop signal ${JSON.stringify(image)} is unknown`,
      why: "it is no signal of Linux",
      next: "say another with --stop-signal",
      cause,
    });
  }
}

/**
 * What the image says, as far as the spec says nothing. An entrypoint that is given takes the image's command with it: that
 * was meant for the image's own entrypoint.
 */
export function programOf(
  spec: Pick<Spec, "entrypoint" | "stopSignal" | "stopTimeoutMs">,
  image: ImageProgram,
): Program {
  const { entrypoint } = spec;
  return {
    run: {
      entrypoint: entrypoint ?? image.entrypoint ?? [],
      cmd: entrypoint === undefined ? (image.cmd ?? []) : [],
      stop: {
        signal: stopSignal(spec.stopSignal, image.stopSignal ?? null),
        timeoutMs: spec.stopTimeoutMs ?? DEFAULT_STOP_TIMEOUT_MS,
      },
    },
    says: { exposedPorts: image.exposedPorts ?? [], volumes: image.volumes ?? [], labels: image.labels ?? {} },
  };
}

/**
 * A run's command line: the entrypoint and `args`, or the image's command where there are none.
 * @throws BulkheadError COMMAND_MISSING
 */
export function commandOf({ image, process }: Plan, args: readonly string[]): readonly string[] {
  const argv = [...process.entrypoint, ...(args.length > 0 ? args : process.cmd)];
  if (argv.length > 0) return argv;
  throw new BulkheadError("COMMAND_MISSING", {
    what: `image ${JSON.stringify(image.reference)} does not say what to run`,
    why: "no command was given, and the image has neither an entrypoint nor a command",
    next: "write bulkhead run [OPTIONS] -- COMMAND",
  });
}
