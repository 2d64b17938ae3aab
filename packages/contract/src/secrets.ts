import { BulkheadError } from "./errors.ts";
import { canonicalName } from "./network.ts";
import { SPEC_RULES as R } from "./rules.ts";

/** A header that the edge puts on every request for a host, so that its value never enters the sandbox. */
export interface Secret {
  /** One name, canonical; its requests over TLS at port 443 are meant. */
  readonly host: string;
  /** Lower case. */
  readonly header: string;
  readonly value: string;
}

/** Where a secret goes, without what it is. */
export type SecretPlace = Pick<Secret, "host" | "header">;

/**
 * What says how a message is framed, where it goes or how its connection is used: an edge that let these be set would say
 * another thing than it checks.
 */
const KEPT_HEADERS: ReadonlySet<string> = new Set([
  ...["connection", "content-length", "expect", "host", "http2-settings", "keep-alive", "proxy-authenticate"],
  ...["proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"],
]);

/** RFC 9110, 5.6.2. */
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
/** Printable ASCII, with blanks only between: what every server reads as the same. */
const VALUE = /^[\x21-\x7e]+(?:[ \t]+[\x21-\x7e]+)*$/;

/** The error for a field that may hold a secret: it shows nothing of what was given. */
function secretError(field: string, why: string, next: string): BulkheadError {
  return new BulkheadError("SPEC_INVALID", { what: `${field} is not valid`, why, next, details: { field } });
}

/** @returns null for what no header can be called, and for headers that the edge itself writes. */
export function canonicalHeader(text: string): string | null {
  const header = text.toLowerCase();
  return header.length <= R.secretHeaderMaxChars && TOKEN.test(header) && !KEPT_HEADERS.has(header) ? header : null;
}

function fields(value: unknown, field: string): Record<string, unknown> {
  const known = ["host", "header", "value"];
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    const given = value as Record<string, unknown>;
    if (Object.keys(given).every((key) => known.includes(key))) return given;
  }
  throw secretError(field, `a secret is an object of ${known.join(", ")} and nothing else`, "name these three");
}

function secret(value: unknown, field: string): Secret {
  const given = fields(value, field);
  const { host, header } = given;
  const name = typeof host === "string" && host.length <= R.networkRuleMaxChars ? canonicalName(host) : null;
  if (name === null) {
    const why = "the host of a secret is one name, without a wildcard, port or path";
    throw secretError(`${field}.host`, why, "write it like api.example.com");
  }
  const canonical = typeof header === "string" ? canonicalHeader(header) : null;
  if (canonical === null) {
    const why = `a header is a name of at most ${R.secretHeaderMaxChars} characters that is not about framing or connections`;
    throw secretError(`${field}.header`, why, "write it like authorization or x-api-key");
  }
  const content = given["value"];
  if (typeof content !== "string" || content.length > R.secretValueMaxChars || !VALUE.test(content)) {
    const why = `the value of a header is 1 to ${R.secretValueMaxChars} characters of printable ASCII on one line`;
    throw secretError(`${field}.value`, why, "check where it comes from; it is not shown here");
  }
  return { host: name, header: canonical, value: content };
}

/**
 * Reads the headers that the edge adds.
 * @throws BulkheadError SPEC_INVALID naming the field, never showing what it holds.
 */
export function parseSecrets(value: unknown, field: string): Secret[] {
  if (!Array.isArray(value) || value.length > R.secretsMax) {
    throw secretError(field, `${field} is a list of at most ${R.secretsMax} secrets`, "give fewer");
  }
  const read = value.map((item, i) => secret(item, `${field}[${i}]`));
  const place = ({ host, header }: Secret): string => `${host} ${header}`;
  for (const [i, one] of read.entries()) {
    if (read.findIndex((other) => place(other) === place(one)) === i) continue;
    throw secretError(`${field}[${i}]`, `${one.header} of ${one.host} is given twice`, "keep one of them");
  }
  return read;
}
