import { formatRange, parseRange, type AddressRange } from "./address.ts";
import { fieldError } from "./invalid.ts";
import { SPEC_RULES as R } from "./rules.ts";

/** What may leave a sandbox. Rules are in canonical text, `formatRule`; how they combine is docs/egress.md. */
export interface NetworkPolicy {
  readonly allow: readonly string[];
  readonly deny: readonly string[];
  /** Bytes a second, each way by itself, all connections together. Absent: not limited. */
  readonly rateBytesPerSecond?: number | undefined;
  /** In place of it for what the sandbox sends, and for what it is sent. */
  readonly sendBytesPerSecond?: number | undefined;
  readonly receiveBytesPerSecond?: number | undefined;
}

export type Transport = "tcp" | "udp";

export interface PortRange {
  readonly first: number;
  readonly last: number;
}

interface RuleCommon {
  readonly ports: PortRange;
  /** Null where the rule does not say: one that allows is then about TCP, one that denies about both. */
  readonly transport: Transport | null;
}

/** One rule of a policy. */
export type NetworkRule =
  /** `*`: whatever no other rule names. */
  | (RuleCommon & { readonly kind: "any" })
  /** `domain` in its ASCII form, lower case, without a final dot. `below` means its subdomains, at any depth, and not itself. */
  | (RuleCommon & { readonly kind: "domain"; readonly domain: string; readonly below: boolean })
  | (RuleCommon & { readonly kind: "range"; readonly range: AddressRange });

export const ALL_PORTS: PortRange = { first: 1, last: 65_535 };

const NAME_MAX_CHARS = 253;
const LABEL = /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/;
/** Programs read such a last label as part of an IPv4 address. */
const NUMERIC_LABEL = /^(\d+|0x[0-9a-f]*)$/;

const FORMS =
  "a rule is DOMAIN, *.DOMAIN, ADDRESS, ADDRESS/PREFIX or *, then optionally :PORT or :FIRST-LAST, then optionally /tcp or /udp";
const EXAMPLES = "write it like pypi.org:443, *.example.com, 192.0.2.0/24:53/udp or [2001:db8::1]:443";

/**
 * @returns the name as it is compared: ASCII (IDNA), lower case, no final dot; null for what no host on the Internet is
 * called: one label alone, empty or long labels, other characters, an IPv4 address in any of its spellings.
 */
export function canonicalName(text: string): string | null {
  let name = text.toLowerCase();
  if (/[^\x21-\x7e]/.test(name)) {
    // The URL parser does IDNA; what has a meaning of its own in a URL must not get there.
    if (/[\x00-\x20\x7f%/?#@:\\[\]<>^|]/.test(name) || !URL.canParse(`http://${name}/`)) return null;
    name = new URL(`http://${name}/`).hostname;
  }
  if (name.endsWith(".")) name = name.slice(0, -1);
  const labels = name.split(".");
  const fits = name.length <= NAME_MAX_CHARS && labels.length >= 2 && labels.every((label) => LABEL.test(label));
  return fits && !NUMERIC_LABEL.test(labels.at(-1)!) ? name : null;
}

function parsePorts(text: string | undefined): PortRange | null {
  if (text === undefined) return ALL_PORTS;
  const match = /^([1-9]\d{0,4})(?:-([1-9]\d{0,4}))?$/.exec(text);
  if (match === null) return null;
  const first = Number(match[1]);
  const last = match[2] === undefined ? first : Number(match[2]);
  return first <= last && last <= ALL_PORTS.last ? { first, last } : null;
}

interface Parts {
  readonly target: string;
  readonly ports: PortRange | null;
  readonly transport: Transport | null;
}

function split(text: string): Parts {
  const suffix = /\/(udp|tcp)$/i.exec(text);
  const rest = suffix === null ? text : text.slice(0, suffix.index);
  const transport = suffix === null ? null : (suffix[1]!.toLowerCase() as Transport);
  const bracketed = /^\[([^\]]*)\](?::(.*))?$/.exec(rest);
  if (bracketed !== null) return { target: bracketed[1]!, ports: parsePorts(bracketed[2]), transport };
  // With more than one colon it is an IPv6 address, which takes a port only in brackets.
  const colon = rest.indexOf(":");
  if (colon === -1 || rest.includes(":", colon + 1)) return { target: rest, ports: ALL_PORTS, transport };
  return { target: rest.slice(0, colon), ports: parsePorts(rest.slice(colon + 1)), transport };
}

function domainRule(text: string, field: string, { target, transport }: Parts, ports: PortRange): NetworkRule {
  const below = target.startsWith("*.");
  const domain = canonicalName(below ? target.slice(2) : target);
  if (domain === null) {
    const why = target.includes("*")
      ? `${FORMS}; * stands for whole subdomains, at the beginning, of a domain with at least two labels`
      : `${FORMS}; a domain has at least two labels, an address no bits beyond its prefix`;
    throw fieldError(field, text, why, EXAMPLES);
  }
  if (transport === "udp") {
    const why = "a UDP datagram carries no name that could be checked, so a domain rule cannot be enforced for UDP";
    throw fieldError(field, text, why, "allow UDP by address, like 192.0.2.1:53/udp");
  }
  return { kind: "domain", domain, below, ports, transport };
}

/**
 * Reads one rule: `pypi.org`, `*.example.com:443`, `192.0.2.0/24:8000-8999`, `[2001:db8::1]:53/udp`, `*`. Every
 * port unless it names some. `0.0.0.0/0` and `::/0` are `*`.
 * @throws BulkheadError SPEC_INVALID naming `field`, for what is no rule and for what could not be enforced.
 */
export function parseRule(value: unknown, field: string): NetworkRule {
  if (typeof value !== "string" || value.length > R.networkRuleMaxChars)
    throw fieldError(field, value, FORMS, EXAMPLES);
  const parts = split(value.trim());
  const { target, ports, transport } = parts;
  if (ports === null) {
    throw fieldError(field, value, `a port is a whole number from 1 to ${ALL_PORTS.last}, or FIRST-LAST`, EXAMPLES);
  }
  if (target === "*") return { kind: "any", ports, transport };
  const range = parseRange(target);
  if (range === null) return domainRule(value, field, parts, ports);
  return range.prefix === 0 ? { kind: "any", ports, transport } : { kind: "range", range, ports, transport };
}

export function allPorts({ first, last }: PortRange): boolean {
  return first === ALL_PORTS.first && last === ALL_PORTS.last;
}

/** @returns the canonical text of a rule, which `parseRule` reads as the same rule. */
export function formatRule(rule: NetworkRule): string {
  const { first, last } = rule.ports;
  const all = allPorts(rule.ports);
  const ports = all ? "" : first === last ? `:${first}` : `:${first}-${last}`;
  const transport = rule.transport === null ? "" : `/${rule.transport}`;
  if (rule.kind === "any") return `*${ports}${transport}`;
  if (rule.kind === "domain") return `${rule.below ? "*." : ""}${rule.domain}${ports}${transport}`;
  const range = formatRange(rule.range);
  return `${rule.range.family === 6 && !all ? `[${range}]` : range}${ports}${transport}`;
}

/** Whether `name`, in canonical form, is what the rule is about. */
export function matchesName(rule: NetworkRule & { readonly kind: "domain" }, name: string): boolean {
  return rule.below ? name.endsWith(`.${rule.domain}`) : name === rule.domain;
}

function coversDomain(allow: NetworkRule, deny: NetworkRule): boolean {
  if (allow.kind !== "domain" || deny.kind !== "domain") return false;
  if (allow.ports.first > deny.ports.first || allow.ports.last < deny.ports.last) return false;
  if (!deny.below) return matchesName(allow, deny.domain);
  return allow.below && (deny.domain === allow.domain || deny.domain.endsWith(`.${allow.domain}`));
}

/**
 * The rules of a policy together: canonical, each once. Denying something alone means that the rest is allowed, so `*` is
 * filled in then.
 * @throws BulkheadError SPEC_INVALID for what is no rule, what could not be enforced, and a denied domain that is allowed.
 */
export function combineRules(
  allow: readonly unknown[],
  deny: readonly unknown[],
  field: string,
): { allow: string[]; deny: string[] } {
  const allowed = allow.map((text, i) => parseRule(text, `${field}.allow[${i}]`));
  const denied = deny.map((text, i) => parseRule(text, `${field}.deny[${i}]`));
  for (const [i, rule] of denied.entries()) {
    const over = allowed.find((one) => coversDomain(one, rule));
    if (over === undefined) continue;
    const why = `${formatRule(over)} is allowed, and allow beats deny, so this denial would do nothing`;
    throw fieldError(`${field}.deny[${i}]`, deny[i], why, "allow only the names that are to be reached");
  }
  if (allowed.length === 0 && denied.some((rule) => rule.kind !== "any" || !allPorts(rule.ports))) {
    allowed.push({ kind: "any", ports: ALL_PORTS, transport: null });
  }
  const texts = (rules: readonly NetworkRule[]): string[] => [...new Set(rules.map(formatRule))];
  return { allow: texts(allowed), deny: texts(denied) };
}
