import { LEVELS, TRUSTS } from "./level.ts";

const KIB = 1024;
const MIB = KIB * KIB;

/**
 * The bounds of every field of a spec, in one place: the hand-written parser (spec.ts) and the zod schema (schema.ts)
 * both read them, and a property test holds the two together.
 */
export const SPEC_RULES = {
  levels: LEVELS,
  trusts: TRUSTS,
  /** Each connection is judged by every rule. */
  networkRulesMax: 1024,
  /** A name of 253 characters in Unicode, a wildcard, ports and a transport. */
  networkRuleMaxChars: 300,
  /** Below this not even a name is resolved before its program gives up. */
  networkRateMin: 1024,
  /** Each host has a certificate of its own, made when it is first asked for. */
  secretsMax: 64,
  secretHeaderMaxChars: 128,
  /** What servers take of one header's value: 8 KiB by default in nginx and Apache. */
  secretValueMaxChars: 8192,
  /** Longest reference a registry accepts is 255 for the name, 128 for the tag, 71 for the digest. */
  imageMaxChars: 512,
  /** useradd's own bound is 32; `name:group` needs two. */
  userMaxChars: 65,
  /** PATH_MAX of Linux without its final zero. */
  pathMaxChars: 4095,
  /** A quota below 1 ms per 100 ms period is refused by the kernel. */
  cpusMin: 0.01,
  cpusMax: 1024,
  /** Below this the agent and one shell do not fit. */
  memoryMinBytes: 16 * MIB,
  /** PID_MAX_LIMIT of a 64-bit kernel. */
  pidsMax: 4_194_304,
  diskMinBytes: MIB,
  /** The agent's own files and an empty home need some; a mask of 32 bits is what file systems count in. */
  diskInodesMin: 64,
  diskInodesMax: 2 ** 32 - 1,
  /** One page of 4 KiB a second: less and nothing would ever start. */
  diskBytesPerSecondMin: 4096,
  /** Control groups of version 2 count weights like this; 100 is what nobody asked for. */
  cpuWeightMin: 1,
  cpuWeightMax: 10_000,
  /** A shell, its pipes and an interpreter's libraries at once; the kernel's own bound (fs.nr_open) is 2^20. */
  openFilesMin: 16,
  openFilesMax: 2 ** 20,
  diskBackings: ["file", "memory"],
  /** A directory's name that hides nothing, in the characters that file systems and shells agree on. */
  keepName: /^[a-z0-9][a-z0-9._-]{0,62}$/,
  /** A word of `NAME:PATH`, and the end of a file's name. */
  sandboxName: /^[a-z0-9][a-z0-9._-]{0,62}$/,
  /** What sandboxes are called by themselves; no name may look like one. */
  sandboxId: /^s[0-9a-f]{16}$/,
  mountsMax: 64,
  volumesMax: 16,
  /** A directory of the host's, and a word of `NAME:PATH`. */
  volumeName: /^[a-z0-9][a-z0-9._-]{0,62}$/,
  /** With the program's own; each may be as long as the kernel takes one (MAX_ARG_STRLEN). */
  argumentsMax: 4096,
  argumentMaxChars: 131_071,
  /** A number, or a name with or without SIG; real-time ones count from an end: RTMIN+3. Whether it is known is judged later. */
  signal: /^(?:[1-9]\d?|(?:SIG)?[A-Z][A-Z0-9]{1,11}(?:[+-]\d{1,2})?)$/,
  /** What timers take. */
  stopTimeoutMaxMs: 2 ** 31 - 1,
  envMax: 4096,
  envName: /^[^=\0]+$/,
  envValue: /^[^\0]*$/,
  seccompNameMaxChars: 255,
  /** Docker's default profile has 13 KB. */
  seccompMaxChars: MIB,
  /** One DNS label: what sethostname and every resolver accept. */
  hostname: /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/,
} as const;
