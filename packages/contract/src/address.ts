/** An IP address as a number, so that ranges are arithmetic. */
export interface Address {
  readonly family: 4 | 6;
  readonly value: bigint;
}

/** All addresses that share their first `prefix` bits with `base`, whose other bits are 0. */
export interface AddressRange {
  readonly family: 4 | 6;
  readonly base: bigint;
  readonly prefix: number;
}

const BITS = { 4: 32, 6: 128 } as const;
/** The longest text of an IPv6 address: eight groups, the last two written as IPv4. */
const ADDRESS_MAX_CHARS = 45;

function parseV4(text: string): bigint | null {
  const parts = text.split(".");
  // No leading zeros: some readers take them for octal, so that one text would be two addresses.
  if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) <= 255)) return null;
  return parts.reduce((value, part) => (value << 8n) | BigInt(part), 0n);
}

function parseGroups(text: string): bigint[] | null {
  if (text === "") return [];
  const groups: bigint[] = [];
  const parts = text.split(":");
  for (const [i, part] of parts.entries()) {
    if (/^[0-9a-f]{1,4}$/i.test(part)) {
      groups.push(BigInt(`0x${part}`));
      continue;
    }
    const tail = i === parts.length - 1 ? parseV4(part) : null;
    if (tail === null) return null;
    groups.push(tail >> 16n, tail & 0xffffn);
  }
  return groups;
}

function parseV6(text: string): bigint | null {
  const halves = text.split("::");
  if (halves.length > 2) return null;
  const left = parseGroups(halves[0]!);
  const right = halves.length === 2 ? parseGroups(halves[1]!) : [];
  if (left === null || right === null) return null;
  // An IPv4 tail ends the whole text, so it cannot stand before "::".
  if (halves.length === 2 && halves[0]!.includes(".")) return null;
  const missing = 8 - left.length - right.length;
  if (halves.length === 2 ? missing < 1 : missing !== 0) return null;
  return [...left, ...Array<bigint>(missing).fill(0n), ...right].reduce((value, group) => (value << 16n) | group, 0n);
}

/** @returns null for what is no address. A zone (`%eth0`) is none: it means something only on one machine. */
export function parseAddress(text: string): Address | null {
  if (text.length > ADDRESS_MAX_CHARS) return null;
  const family = text.includes(":") ? 6 : 4;
  const value = family === 6 ? parseV6(text) : parseV4(text);
  return value === null ? null : { family, value };
}

function formatV6(value: bigint): string {
  const groups = Array.from({ length: 8 }, (_, i) => ((value >> BigInt(112 - 16 * i)) & 0xffffn).toString(16));
  // RFC 5952: the first of the longest runs of zeros is left out, a single zero is not.
  let best = { at: 0, length: 1 };
  for (let at = 0; at < 8; at++) {
    let length = 0;
    while (at + length < 8 && groups[at + length] === "0") length++;
    if (length > best.length) best = { at, length };
  }
  if (best.length === 1) return groups.join(":");
  return `${groups.slice(0, best.at).join(":")}::${groups.slice(best.at + best.length).join(":")}`;
}

/** @returns the canonical text; of IPv6 as RFC 5952 has it, but with IPv4 inside written in hexadecimal too. */
export function formatAddress({ family, value }: Address): string {
  if (family === 6) return formatV6(value);
  return [24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 0xffn).join(".");
}

/** `192.0.2.0/24`, `2001:db8::/32`, or one address. @returns null for what is no range, bits set beyond its prefix included. */
export function parseRange(text: string): AddressRange | null {
  const slash = text.indexOf("/");
  const address = parseAddress(slash === -1 ? text : text.slice(0, slash));
  if (address === null) return null;
  const { family, value } = address;
  const digits = slash === -1 ? `${BITS[family]}` : text.slice(slash + 1);
  if (!/^(0|[1-9]\d{0,2})$/.test(digits) || Number(digits) > BITS[family]) return null;
  const prefix = Number(digits);
  return truncate(family, value, prefix) === value ? { family, base: value, prefix } : null;
}

function truncate(family: 4 | 6, value: bigint, prefix: number): bigint {
  const rest = BigInt(BITS[family] - prefix);
  return (value >> rest) << rest;
}

/** @returns the canonical text: one address without its prefix. */
export function formatRange({ family, base, prefix }: AddressRange): string {
  const text = formatAddress({ family, value: base });
  return prefix === BITS[family] ? text : `${text}/${prefix}`;
}

export function contains(range: AddressRange, { family, value }: Address): boolean {
  return family === range.family && truncate(family, value, range.prefix) === range.base;
}

/** Whether every address of `inner` is in `outer`. */
export function covers(outer: AddressRange, inner: AddressRange): boolean {
  return inner.prefix >= outer.prefix && contains(outer, { family: inner.family, value: inner.base });
}
