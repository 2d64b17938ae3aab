import { contains, covers, parseRange, type Address, type AddressRange } from "@bulkhead/contract";

/** Addresses that are no public host's. */
export interface SpecialBlock {
  readonly range: AddressRange;
  /** What they are, for messages: "a private address". */
  readonly what: string;
}

/**
 * IANA's special-purpose registries, and where clouds answer a machine's questions about itself. The narrowest block that
 * holds an address counts. Public IPv6 is 2000::/3 alone, so the rest is covered without holes.
 */
const BLOCKS: readonly (readonly [what: string, ...ranges: string[]])[] = [
  ["an unspecified address", "0.0.0.0/8", "::"],
  ["a loopback address", "127.0.0.0/8", "::1"],
  ["a private address", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"],
  ["an address behind a carrier's NAT", "100.64.0.0/10"],
  ["a link-local address", "169.254.0.0/16", "fe80::/10"],
  [
    "a cloud's metadata service",
    // AWS, Azure, Google and others; ECS tasks and EKS pods; AWS and Google over IPv6; Azure's agent; Alibaba; Oracle.
    ...["169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"],
    ...["168.63.129.16", "100.100.100.200", "192.0.0.192"],
  ],
  ["a multicast address", "224.0.0.0/4", "ff00::/8"],
  // The upper half holds the broadcast address.
  ["a reserved address", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "240.0.0.0/4", "2001::/23", "5f00::/16"],
  ["a documentation address", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"],
  ["an IPv4 address inside an IPv6 one", "::/96", "::ffff:0:0/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"],
  ["an address nobody has been given", "::/3", "4000::/2", "8000::/1"],
];

/** The prefix of translators to IPv4 (RFC 6052): what counts is the address inside. */
const NAT64 = parseRange("64:ff9b::/96")!;

const TABLE: readonly SpecialBlock[] = BLOCKS.flatMap(([what, ...ranges]) =>
  ranges.map((text) => ({ what, range: parseRange(text)! })),
).toSorted((a, b) => b.range.prefix - a.range.prefix);

/** @param own the host's own addresses, as they are now. @returns null for a public address. */
export function specialBlock(address: Address, own: readonly Address[] = []): SpecialBlock | null {
  const { family, value } = address;
  if (own.some((one) => one.family === family && one.value === value)) {
    return { what: "the host's own address", range: { family, base: value, prefix: family === 4 ? 32 : 128 } };
  }
  if (contains(NAT64, address)) {
    const inside = specialBlock({ family: 4, value: value & 0xffff_ffffn }, own);
    if (inside === null) return null;
    const range: AddressRange = { family, base: NAT64.base | inside.range.base, prefix: 96 + inside.range.prefix };
    return { what: `${inside.what} inside an IPv6 one`, range };
  }
  return TABLE.find(({ range }) => contains(range, address)) ?? null;
}

/** Whether a rule for `range` opens `block`: only by lying in it. A range around it was not written with it in mind. */
export function opens(range: AddressRange, block: SpecialBlock): boolean {
  return covers(block.range, range);
}
