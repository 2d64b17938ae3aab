import type { Readable } from "node:stream";
import type { Timing } from "./timing.ts";

export interface Work {
  readonly name: string;
  readonly argv: readonly string[];
  readonly expect: string;
}

export const TRUE: Work = { name: "true", argv: ["/bin/true"], expect: "" };
export const PYTHON: Work = { name: "python", argv: ["python3", "-c", "print(1)"], expect: "1\n" };

export interface Memory {
  /** Proportional set size of the sandbox's processes and of those that exist only for it. */
  readonly pssBytes: number;
  /** What the memory controller charges to the sandbox, kernel memory included; NaN where there is no such group. */
  readonly chargedBytes: number;
}

/** A sandbox that runs and waits. */
export interface Standing extends AsyncDisposable {
  exec(work: Work): Promise<Timing>;
  /** Has a program write this many bytes to its standard output and reads them. @returns milliseconds. */
  pullOutput(bytes: number): Promise<number>;
  writeFile(bytes: number, data: Readable): Promise<number>;
  readFile(bytes: number): Promise<number>;
  memory(): Promise<Memory>;
}

/** What a peer does with images of a registry, which speaks plain HTTP on loopback. */
export interface Images {
  /** Runs work in an image, which is pulled when it is not there. */
  run(reference: string, work: Work): Promise<Timing>;
  pull(reference: string): Promise<void>;
  /** Takes away what was pulled, with all it is made of; what is not there is no error. */
  forget(references: readonly string[]): Promise<void>;
  /** Bytes on disk of all that is kept of images. */
  diskBytes(): Promise<number>;
  /** Makes ahead what a virtual machine needs of an image that is there. */
  readonly convert?: (reference: string) => Promise<void>;
}

/** One way to run work behind a boundary, or without one. */
export interface Peer {
  readonly name: string;
  /** What its `ours / bare` ratio is taken against, when it is ours. */
  readonly against?: string;
  /** From nothing to the work's end. null: it has no such mode. */
  readonly cold: ((work: Work) => Promise<Timing>) | null;
  readonly stand: (() => Promise<Standing>) | null;
  readonly images?: Images;
}

export type Setup =
  | { readonly ok: true; readonly peers: readonly Peer[] }
  | { readonly ok: false; readonly name: string; readonly missing: string };
