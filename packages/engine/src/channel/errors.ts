import { BulkheadError, type ErrorCode } from "@bulkhead/contract";
import { Malformed } from "./codec.ts";
import { ErrorKind, type Failed, MAX_STREAMS } from "./wire.gen.ts";

/** Enough for a path and a reason; the agent's text is for people and comes from inside. */
const MAX_TEXT_CHARS = 300;

/** C0, DEL, C1, line and paragraph separators, and the marks that reorder text: none may reach a terminal or a log. */
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]+/g;

/** Text from inside the sandbox made fit for one line of a message. */
export function untrustedText(text: string): string {
  const line = text
    .slice(0, 4 * MAX_TEXT_CHARS)
    .replace(UNPRINTABLE, " ")
    .trim();
  return line.length <= MAX_TEXT_CHARS ? line : `${line.slice(0, MAX_TEXT_CHARS)}…`;
}

interface Meaning {
  readonly code: ErrorCode;
  readonly says: string;
}

const MEANINGS: ReadonlyMap<number, Meaning> = new Map<number, Meaning>([
  [ErrorKind.invalid, { code: "SPEC_INVALID", says: "was refused as invalid" }],
  [ErrorKind.notFound, { code: "FILE_NOT_FOUND", says: "does not exist" }],
  [ErrorKind.exists, { code: "FILE_EXISTS", says: "exists already" }],
  [ErrorKind.notDirectory, { code: "FILE_NOT_A_DIRECTORY", says: "is not a directory" }],
  [ErrorKind.isDirectory, { code: "FILE_IS_A_DIRECTORY", says: "is a directory" }],
  [ErrorKind.permission, { code: "FILE_PERMISSION", says: "is not permitted to this user" }],
  [ErrorKind.noSpace, { code: "FILE_NO_SPACE", says: "does not fit: the sandbox's disk is full" }],
  [ErrorKind.io, { code: "FILE_FAILED", says: "failed" }],
  [ErrorKind.userNotFound, { code: "USER_NOT_FOUND", says: "names a user the sandbox does not have" }],
  [ErrorKind.workdirNotFound, { code: "WORKDIR_NOT_FOUND", says: "names a working directory that cannot be entered" }],
  [ErrorKind.commandNotFound, { code: "COMMAND_NOT_FOUND", says: "was not found in the sandbox" }],
  [ErrorKind.commandNotExecutable, { code: "COMMAND_NOT_EXECUTABLE", says: "cannot be executed" }],
  [ErrorKind.processNotFound, { code: "PROCESS_NOT_FOUND", says: "is no process of the sandbox" }],
  [ErrorKind.refused, { code: "PORT_CLOSED", says: "refused the connection" }],
  [ErrorKind.limit, { code: "STREAM_LIMIT", says: "is one more than the agent takes at once" }],
  [ErrorKind.unsupported, { code: "HOST_UNSUPPORTED", says: "is not supported in this sandbox" }],
  [ErrorKind.notEmpty, { code: "FILE_FAILED", says: "is not empty" }],
]);

/** @param subject names what was asked for: `file "/etc/x"`, `command "make"`. */
export function failureToError(failure: Failed, subject: string): BulkheadError {
  const { code, says } = MEANINGS.get(failure.kind) ?? { code: "FILE_FAILED", says: "failed" };
  const why = untrustedText(failure.message);
  return new BulkheadError(code, {
    what: `${subject} ${says}`,
    ...(why === "" ? {} : { why }),
    details: { errno: failure.errno },
  });
}

export function attachTimeout(timeoutMs: number): BulkheadError {
  return new BulkheadError("TIMEOUT", {
    what: `the agent inside the sandbox did not answer within ${timeoutMs} ms`,
    next: "look at the sandbox's log for what the agent or the runtime says",
  });
}

export function pingTimeout(timeoutMs: number, why?: string): BulkheadError {
  return new BulkheadError("TIMEOUT", {
    what: `the sandbox did not answer a ping within ${timeoutMs} ms`,
    ...(why === undefined ? {} : { why }),
  });
}

export function streamLimit(): BulkheadError {
  return new BulkheadError("STREAM_LIMIT", {
    what: `${MAX_STREAMS} operations are under way in this sandbox`,
    next: "wait for one to end, or use another sandbox",
    details: { maxStreams: MAX_STREAMS },
  });
}

export function tooLarge(name: string, cause: Malformed): BulkheadError {
  return new BulkheadError("SPEC_INVALID", {
    what: `the request ${name} is too large for the channel`,
    why: cause.message,
    next: "pass long arguments or environments in a file",
  });
}

export function gone(cause?: Error): BulkheadError {
  return new BulkheadError("SANDBOX_GONE", {
    what: "the sandbox is gone",
    why: "its agent closed the channel",
    ...(cause === undefined ? {} : { cause }),
  });
}

/** @param what names what was waited for: `a ping`, `command "make"`. */
export function aborted(what: string, signal: AbortSignal | undefined): BulkheadError {
  return new BulkheadError("ABORTED", { what: `${what} was aborted by its caller`, cause: signal?.reason });
}

export function brokenProtocol(cause: unknown): BulkheadError {
  return new BulkheadError("CHANNEL_PROTOCOL", {
    what: "the agent inside the sandbox broke the protocol",
    why: cause instanceof Malformed ? cause.message : "an error of our own while reading it",
    next: "treat the sandbox as hostile: it is being ended",
    cause,
  });
}
