import { parseArgs } from "node:util";

export const PARTS = ["cold", "exec", "cli", "throughput", "memory", "images", "egress"] as const;
export type Part = (typeof PARTS)[number];

export const USAGE = `usage: node bench/run.ts [--quick] [--only PART[,PART]...] [--peers NAME[,NAME]...] [--json FILE]

Measures Bulkhead beside bare processes, bwrap, crun, runc, runsc, QEMU, podman and docker in one run: medians, 95th percentiles and
ratios. Parts: ${PARTS.join(", ")}. --peers keeps only peers whose name contains one of the words given.
Needs root. Everything it makes lies in one temporary directory and is removed at the end, also after Ctrl-C.
`;

export interface Options {
  readonly quick: boolean;
  readonly parts: readonly Part[];
  readonly peers: readonly string[];
  readonly json: string | null;
  readonly help: boolean;
  /** Set by the bench itself when it has entered its own mount namespace. */
  readonly inside: boolean;
}

export function parseOptions(argv: readonly string[]): Options {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      quick: { type: "boolean", default: false },
      only: { type: "string", multiple: true, default: [] },
      peers: { type: "string", multiple: true, default: [] },
      json: { type: "string" },
      help: { type: "boolean", default: false },
      inside: { type: "boolean", default: false },
    },
  });
  const words = values.only.flatMap((text) => text.split(","));
  const unknown = words.filter((word) => !PARTS.includes(word as Part));
  if (unknown.length > 0) throw new Error(`unknown part ${unknown.join(", ")}; there are ${PARTS.join(", ")}`);
  return {
    quick: values.quick,
    parts: words.length === 0 ? PARTS : (words as Part[]),
    peers: values.peers.flatMap((text) => text.split(",")),
    json: values.json ?? null,
    help: values.help,
    inside: values.inside,
  };
}
