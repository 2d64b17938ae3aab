/**
 * The one registry of failures. `exit` is the CLI's exit code, `http` the API's status; `retryable` says whether the
 * same request can succeed later without being changed; `why` and `next` stand in where the place that failed knows no
 * better. Exit codes 125–127 mean what they mean for `docker run`; 120–124 are ours, listed in docs/exit-codes.md.
 */
export interface ErrorEntry {
  readonly exit: number;
  readonly http: number;
  readonly retryable: boolean;
  readonly why: string;
  readonly next: string;
}

export const ERRORS = {
  SPEC_INVALID: {
    exit: 121,
    http: 400,
    retryable: false,
    why: "the request does not fit what Bulkhead accepts",
    next: "see bulkhead help run",
  },
  LEVEL_UNAVAILABLE: {
    exit: 120,
    http: 409,
    retryable: false,
    why: "this host cannot make that boundary",
    next: "see bulkhead doctor",
  },
  LIMIT_UNSUPPORTED: {
    exit: 120,
    http: 409,
    retryable: false,
    why: "this host cannot hold a sandbox to that limit",
    next: "ask for less, or leave the limit out",
  },
  POLICY_REFUSED: {
    exit: 120,
    http: 403,
    retryable: false,
    why: "the request contradicts its own floor",
    next: "ask for a level the floor admits",
  },
  IMAGE_NOT_FOUND: {
    exit: 121,
    http: 404,
    retryable: false,
    why: "an image is pulled or built before it is used, and this one was not, or was removed",
    next: "see bulkhead image list, or build one with bulkhead image build-base",
  },
  IMAGE_INVALID: {
    exit: 121,
    http: 422,
    retryable: false,
    why: "the image's files are not what its record says",
    next: "remove it with bulkhead image remove and build it again",
  },
  IMAGE_IN_USE: {
    exit: 125,
    http: 409,
    retryable: true,
    why: "a running sandbox uses it",
    next: "end those sandboxes first",
  },
  IMAGE_REFUSED: {
    exit: 121,
    http: 422,
    retryable: false,
    why: "an image holds only what stays inside it, is what its digests say, and has an end",
    next: "use another image; if a bound is too low for it, docs/images.md says how to raise it",
  },
  IMAGE_DENIED: {
    exit: 121,
    http: 403,
    retryable: false,
    why: "the registry or this host's signature policy does not admit it",
    next: "check the name and the credentials",
  },
  IMAGE_PULL_FAILED: {
    exit: 125,
    http: 502,
    retryable: true,
    why: "the registry, or the way to it, failed",
    next: "try again: what has arrived whole is not fetched twice",
  },
  IMAGE_BUILD_FAILED: {
    exit: 125,
    http: 500,
    retryable: true,
    why: "a step of the build failed",
    next: "read the message above, then run bulkhead image build-base again",
  },
  MOUNT_INVALID: {
    exit: 121,
    http: 400,
    retryable: false,
    why: "that path cannot be mounted",
    next: "choose another source or target",
  },
  VOLUME_NOT_FOUND: {
    exit: 121,
    http: 404,
    retryable: false,
    why: "a volume is created before it is used, and this one was not, or was removed",
    next: "see bulkhead volume list, or make it with bulkhead volume create",
  },
  VOLUME_EXISTS: {
    exit: 121,
    http: 409,
    retryable: false,
    why: "a volume replaces nothing",
    next: "choose another name, or remove that one",
  },
  VOLUME_IN_USE: {
    exit: 125,
    http: 409,
    retryable: true,
    why: "who writes to a volume is alone, unless all others only read or share it too",
    next: "end the sandbox that uses it, or attach it read-only or shared on both sides",
  },
  VOLUME_INVALID: {
    exit: 125,
    http: 422,
    retryable: false,
    why: "its file system or its record is damaged",
    next: "look at it with e2fsck -f, or remove it",
  },
  USER_NOT_FOUND: {
    exit: 121,
    http: 400,
    retryable: false,
    why: "the image's /etc/passwd has no such user",
    next: "use a name from the image, or uid:gid",
  },
  WORKDIR_NOT_FOUND: {
    exit: 121,
    http: 400,
    retryable: false,
    why: "the image has no such directory",
    next: "create it, mount it, or choose another",
  },
  COMMAND_MISSING: {
    exit: 121,
    http: 400,
    retryable: false,
    why: "no command was given, and the image says none",
    next: "name a program to run",
  },
  COMMAND_NOT_FOUND: {
    exit: 127,
    http: 400,
    retryable: false,
    why: "no such program is on the PATH inside the sandbox",
    next: "check the spelling, or use an image that has it",
  },
  COMMAND_NOT_EXECUTABLE: {
    exit: 126,
    http: 400,
    retryable: false,
    why: "the file is there but cannot be run",
    next: "check its mode, its interpreter line and its architecture",
  },
  COMMAND_FAILED: {
    exit: 125,
    http: 422,
    retryable: false,
    why: "it ended with an exit code that is not 0",
    next: "read its standard error",
  },
  HOST_UNSUPPORTED: {
    exit: 125,
    http: 501,
    retryable: false,
    why: "this host lacks something Bulkhead needs",
    next: "see bulkhead doctor",
  },
  HOST_NOT_ROOT: {
    exit: 125,
    http: 501,
    retryable: false,
    why: "mounts, control groups and id ranges need root",
    next: "run it again with sudo",
  },
  HOST_RESOURCE: {
    exit: 125,
    http: 507,
    retryable: true,
    why: "the host ran out of room, memory, processes or open files",
    next: "free some and try again",
  },
  RUNTIME_FAILED: {
    exit: 125,
    http: 500,
    retryable: true,
    why: "the runtime could not start the sandbox",
    next: "see bulkhead doctor",
  },
  KEEPER_FAILED: {
    exit: 125,
    http: 500,
    retryable: true,
    why: "the host-side helper failed",
    next: "see bulkhead doctor",
  },
  CHANNEL_PROTOCOL: {
    exit: 125,
    http: 502,
    retryable: false,
    why: "the agent inside sent something the protocol forbids, so the sandbox was ended",
    next: "treat what ran inside as hostile",
  },
  CHANNEL_CLOSED: {
    exit: 125,
    http: 502,
    retryable: false,
    why: "the sandbox ended while it was in use",
    next: "start a new one; if it ran out of memory, raise the limit",
  },
  SANDBOX_GONE: {
    exit: 125,
    http: 410,
    retryable: false,
    why: "the sandbox has already ended",
    next: "start a new one",
  },
  SANDBOX_NOT_FOUND: {
    exit: 121,
    http: 404,
    retryable: false,
    why: "no sandbox that runs has that name or id",
    next: "see bulkhead list",
  },
  SANDBOX_AMBIGUOUS: {
    exit: 121,
    http: 409,
    retryable: false,
    why: "the ids of several sandboxes begin like that",
    next: "write more of the id",
  },
  SANDBOX_NAME_TAKEN: {
    exit: 121,
    http: 409,
    retryable: true,
    why: "a name belongs to one running sandbox at a time",
    next: "choose another name, or end that sandbox first: see bulkhead list",
  },
  SANDBOX_PAUSED: {
    exit: 125,
    http: 409,
    retryable: true,
    why: "nothing in a paused sandbox runs, so nothing in it can answer",
    next: "resume it first",
  },
  NOT_SUPPORTED: {
    exit: 120,
    http: 501,
    retryable: false,
    why: "the level cannot do that",
    next: "see docs/levels.md for what each level can do",
  },
  SNAPSHOT_NOT_FOUND: {
    exit: 121,
    http: 404,
    retryable: false,
    why: "there is no snapshot of that name",
    next: "check the name, or take one first",
  },
  SNAPSHOT_EXISTS: {
    exit: 121,
    http: 409,
    retryable: false,
    why: "a snapshot replaces nothing",
    next: "choose another name, or remove what is there",
  },
  SNAPSHOT_INVALID: {
    exit: 121,
    http: 422,
    retryable: false,
    why: "its files are not what was written",
    next: "remove it and take a new one",
  },
  SNAPSHOT_MISMATCH: {
    exit: 120,
    http: 409,
    retryable: false,
    why: "saved memory goes on only in the machine it was saved from",
    next: "restore it where nothing of that has changed, or take a new one",
  },
  KEPT_NOT_FOUND: {
    exit: 121,
    http: 404,
    retryable: false,
    why: "a layer is kept once a sandbox was made with its name",
    next: "see bulkhead kept list",
  },
  KEPT_INVALID: {
    exit: 121,
    http: 422,
    retryable: false,
    why: "its files are not what was written",
    next: "remove it with bulkhead kept remove",
  },
  KEPT_IN_USE: {
    exit: 125,
    http: 409,
    retryable: true,
    why: "a file system has one writer at a time",
    next: "end that sandbox first, or choose another name",
  },
  KEPT_MISMATCH: {
    exit: 121,
    http: 409,
    retryable: false,
    why: "a kept layer goes on over the image, and by the kernel, that it was made with",
    next: "choose another name, or remove it with bulkhead kept remove",
  },
  STREAM_LIMIT: {
    exit: 125,
    http: 429,
    retryable: true,
    why: "too many things are open in this sandbox at once",
    next: "close some first",
  },
  OUTPUT_LIMIT: {
    exit: 123,
    http: 413,
    retryable: false,
    why: "more came than the caller allowed",
    next: "raise the limit, or read it as a stream",
  },
  TIMEOUT: {
    exit: 124,
    http: 504,
    retryable: true,
    why: "the time limit was reached",
    next: "raise the limit, or make the work shorter",
  },
  IDLE_TIMEOUT: {
    exit: 124,
    http: 504,
    retryable: true,
    why: "nothing was read, written or asked for that long",
    next: "raise the limit, or keep the sandbox in use",
  },
  ABORTED: {
    exit: 125,
    http: 499,
    retryable: true,
    why: "the caller asked for it to stop",
    next: "run it again if that was not meant",
  },
  FILE_NOT_FOUND: {
    exit: 125,
    http: 404,
    retryable: false,
    why: "nothing is at that path inside the sandbox",
    next: "check the path",
  },
  FILE_EXISTS: {
    exit: 125,
    http: 409,
    retryable: false,
    why: "something is at that path already",
    next: "remove it first, or choose another path",
  },
  FILE_NOT_A_DIRECTORY: {
    exit: 125,
    http: 400,
    retryable: false,
    why: "a part of the path is not a directory",
    next: "check the path",
  },
  FILE_IS_A_DIRECTORY: {
    exit: 125,
    http: 400,
    retryable: false,
    why: "the path is a directory",
    next: "name a file in it",
  },
  FILE_PERMISSION: {
    exit: 125,
    http: 403,
    retryable: false,
    why: "the user inside may not do that",
    next: "act as another user, or change the mode",
  },
  FILE_NO_SPACE: {
    exit: 125,
    http: 507,
    retryable: false,
    why: "the writable layer is full",
    next: "raise the disk limit, or remove files",
  },
  FILE_FAILED: {
    exit: 125,
    http: 500,
    retryable: false,
    why: "the operation failed inside the sandbox",
    next: "check the path and its file system",
  },
  COPY_REFUSED: {
    exit: 121,
    http: 400,
    retryable: false,
    why: "what is to be copied, or where it is to go, cannot be",
    next: "choose another path",
  },
  PROCESS_NOT_FOUND: {
    exit: 125,
    http: 404,
    retryable: false,
    why: "no such process is in the sandbox",
    next: "it may have ended already",
  },
  PORT_CLOSED: {
    exit: 125,
    http: 502,
    retryable: true,
    why: "nothing listens there inside the sandbox",
    next: "start the server first, or check the port",
  },
  NETWORK_NONE: {
    exit: 121,
    http: 409,
    retryable: false,
    why: "it was made without a network, and has no interface that could be given one",
    next: "make it with a policy; one that allows nothing can be changed later",
  },
  INTERNAL: {
    exit: 125,
    http: 500,
    retryable: false,
    why: "this is a fault in Bulkhead",
    next: "set BULKHEAD_DEBUG=1 for the whole trace and report it",
  },
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof ERRORS;

export interface ErrorParts {
  /** Names the thing and the value: `image "nope" is not in the store`. One line, no full stop, no cause repeated. */
  readonly what: string;
  /** Why it happened, one line, when `what` does not already say so. */
  readonly why?: string;
  /** The next step for the reader, one line, imperative. */
  readonly next?: string;
  /** Machine-readable facts for the API and for logs. */
  readonly details?: Readonly<Record<string, unknown>>;
  readonly cause?: unknown;
}

/** The only error class that crosses a package border on purpose. */
export class BulkheadError extends Error {
  override readonly name = "BulkheadError";
  readonly code: ErrorCode;
  readonly why: string;
  readonly next: string;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, parts: ErrorParts) {
    super(parts.what, parts.cause === undefined ? undefined : { cause: parts.cause });
    this.code = code;
    this.why = parts.why ?? ERRORS[code].why;
    this.next = parts.next ?? ERRORS[code].next;
    this.details = parts.details ?? {};
  }

  get exitCode(): number {
    return ERRORS[this.code].exit;
  }

  get httpStatus(): number {
    return ERRORS[this.code].http;
  }

  get retryable(): boolean {
    return ERRORS[this.code].retryable;
  }

  toJSON(): Record<string, unknown> {
    return { code: this.code, what: this.message, why: this.why, next: this.next, details: this.details };
  }
}
