/**
 * The one registry of failures. `exit` is the CLI's exit code, `http` the API's status; `retryable` says whether the
 * same request can succeed later without being changed. Exit codes 125–127 mean what they mean for `docker run`;
 * 120–124 are ours and are listed in docs/exit-codes.md.
 */
export const ERRORS = {
  SPEC_INVALID: { exit: 121, http: 400, retryable: false },
  LEVEL_UNAVAILABLE: { exit: 120, http: 409, retryable: false },
  POLICY_REFUSED: { exit: 120, http: 403, retryable: false },
  IMAGE_NOT_FOUND: { exit: 121, http: 404, retryable: false },
  IMAGE_INVALID: { exit: 121, http: 422, retryable: false },
  IMAGE_IN_USE: { exit: 125, http: 409, retryable: true },
  IMAGE_BUILD_FAILED: { exit: 125, http: 500, retryable: true },
  MOUNT_INVALID: { exit: 121, http: 400, retryable: false },
  USER_NOT_FOUND: { exit: 121, http: 400, retryable: false },
  WORKDIR_NOT_FOUND: { exit: 121, http: 400, retryable: false },
  COMMAND_NOT_FOUND: { exit: 127, http: 400, retryable: false },
  COMMAND_NOT_EXECUTABLE: { exit: 126, http: 400, retryable: false },
  HOST_UNSUPPORTED: { exit: 125, http: 501, retryable: false },
  HOST_NOT_ROOT: { exit: 125, http: 501, retryable: false },
  HOST_RESOURCE: { exit: 125, http: 507, retryable: true },
  RUNTIME_FAILED: { exit: 125, http: 500, retryable: true },
  KEEPER_FAILED: { exit: 125, http: 500, retryable: true },
  CHANNEL_PROTOCOL: { exit: 125, http: 502, retryable: false },
  CHANNEL_CLOSED: { exit: 125, http: 502, retryable: false },
  SANDBOX_GONE: { exit: 125, http: 410, retryable: false },
  STREAM_LIMIT: { exit: 125, http: 429, retryable: true },
  TIMEOUT: { exit: 124, http: 504, retryable: true },
  ABORTED: { exit: 125, http: 499, retryable: true },
  FILE_NOT_FOUND: { exit: 125, http: 404, retryable: false },
  FILE_EXISTS: { exit: 125, http: 409, retryable: false },
  FILE_NOT_A_DIRECTORY: { exit: 125, http: 400, retryable: false },
  FILE_IS_A_DIRECTORY: { exit: 125, http: 400, retryable: false },
  FILE_PERMISSION: { exit: 125, http: 403, retryable: false },
  FILE_NO_SPACE: { exit: 125, http: 507, retryable: false },
  FILE_FAILED: { exit: 125, http: 500, retryable: false },
  OUTPUT_LIMIT: { exit: 125, http: 413, retryable: false },
  COMMAND_FAILED: { exit: 125, http: 422, retryable: false },
  PROCESS_NOT_FOUND: { exit: 125, http: 404, retryable: false },
  PORT_CLOSED: { exit: 125, http: 502, retryable: true },
  INTERNAL: { exit: 125, http: 500, retryable: false },
} as const satisfies Record<string, { exit: number; http: number; retryable: boolean }>;

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
  readonly why: string | undefined;
  readonly next: string | undefined;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, parts: ErrorParts) {
    super(parts.what, parts.cause === undefined ? undefined : { cause: parts.cause });
    this.code = code;
    this.why = parts.why;
    this.next = parts.next;
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
