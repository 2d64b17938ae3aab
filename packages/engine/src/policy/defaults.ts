import type { Spec } from "@bulkhead/contract";
import type { ChosenLayer } from "./layer.ts";
import { programOf, type ImageProgram } from "./program.ts";
import type { Choice, ResolvedSpec } from "./resolve.ts";

const GIB = 1024 ** 3;

/** Enough for a parallel build, far from what makes a fork bomb felt by the host. */
const DEFAULT_PIDS = 512;
/** Room for a virtual environment with a few large wheels; a disk of the host's holds many of these. */
const DEFAULT_DISK_BYTES = GIB;
/** Most scripts need less; one sandbox must not be able to take a small host whole. */
const DEFAULT_MEMORY_BYTES = 2 * GIB;
export const DEFAULT_HOSTNAME = "bulkhead";

/** What an image says about the processes run from it. */
export interface ImageDefaults extends ImageProgram {
  readonly user?: string | undefined;
  readonly workdir?: string | undefined;
  readonly env?: Readonly<Record<string, string>> | undefined;
}

/** An image's empty text means that it says nothing. */
function said(text: string | undefined): string | undefined {
  return text === "" ? undefined : text;
}

/** All but what is yet to be found on this host: its mounts, and where its writable layer is. */
export type LimitedSpec = Omit<ResolvedSpec, "mounts" | "makes" | keyof ChosenLayer> & {
  readonly diskBytes: number;
  readonly diskInodes?: number | undefined;
};

/**
 * Makes a spec definite, but for its mounts and where its layer is: memory is the driver's default (2 GiB where it has none) or half of the host's, whichever is less; 512 processes; 1 GiB of writable
 * layer. CPUs stay unlimited when not given. User, working directory and environment are the image's where the spec says
 * nothing; an image that names no user means root.
 */
export function resolveSpec(
  spec: Omit<Spec, "mounts" | "secrets">,
  choice: Pick<Choice<unknown>, "level" | "reasons">,
  host: { readonly memoryBytes: number },
  image: ImageDefaults,
  defaultMemoryBytes: number = DEFAULT_MEMORY_BYTES,
): LimitedSpec {
  const { entrypoint: _entrypoint, stopSignal: _signal, stopTimeoutMs: _timeout, ...rest } = spec;
  const workdir = spec.workdir ?? said(image.workdir);
  return {
    ...rest,
    program: programOf(spec, image),
    ...(workdir !== undefined && { workdir }),
    env: { ...image.env, ...spec.env },
    level: choice.level,
    levelReason: choice.reasons.join("; "),
    user: spec.user ?? said(image.user) ?? "root",
    memoryBytes: spec.memoryBytes ?? Math.min(defaultMemoryBytes, Math.floor(host.memoryBytes / 2)),
    pids: spec.pids ?? DEFAULT_PIDS,
    diskBytes: spec.diskBytes ?? DEFAULT_DISK_BYTES,
    hostname: spec.hostname ?? DEFAULT_HOSTNAME,
  };
}
