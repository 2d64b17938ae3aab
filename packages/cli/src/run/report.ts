import { isUtf8 } from "node:buffer";
import type { BulkheadError } from "@bulkhead/contract";
import type { Denial, LimitHit, LimitName } from "@bulkhead/engine";
import { allowingOption } from "../render/denials.ts";
import { openOutput, type Output } from "./output.ts";
import type { Ended } from "./program.ts";

export type Lane = "stdout" | "stderr";

/** What a sandbox is, for whoever reads the report. */
export interface Started {
  readonly id: string;
  /** Absent where it was given none. */
  readonly name?: string;
  readonly level: string;
  readonly driver: string;
  readonly runtime: string;
  readonly image: string;
  /** Ports inside and where on this host they are; absent without any. */
  readonly published?: readonly { readonly port: number; readonly url: string }[];
}

/** Where a run's output and outcome go. */
export interface Report {
  started(facts: Started): Promise<void>;
  chunk(lane: Lane, chunk: Uint8Array): Promise<void>;
  /** Limits that were reached; said before how it ended. */
  limits(hits: readonly LimitHit[]): Promise<void>;
  /** Something was not let out of the sandbox. */
  denied(denial: Denial): Promise<void>;
  ended(ended: Ended, durationMs: number): Promise<void>;
  /** @returns false when a failure is still to be shown by the caller. */
  failed(error: BulkheadError): Promise<boolean>;
}

const TOLD_BY_ERROR: ReadonlySet<LimitName> = new Set(["output", "timeout", "idle"]);

/** The program's streams as they are, and on standard error the limits that it reached. */
export class PlainReport implements Report {
  readonly #outputs: Readonly<Record<Lane, Output>>;

  constructor(outputs?: Readonly<Record<Lane, Output>>) {
    this.#outputs = outputs ?? { stdout: openOutput(1), stderr: openOutput(2) };
  }

  async started(): Promise<void> {}

  /** Said at the end: the program's standard error is its own while it runs. */
  async denied(): Promise<void> {}

  chunk(lane: Lane, chunk: Uint8Array): Promise<void> {
    return this.#outputs[lane].write(chunk);
  }

  async limits(hits: readonly LimitHit[]): Promise<void> {
    // Those that end the whole run are what its error says.
    const untold = hits.filter(({ limit }) => !TOLD_BY_ERROR.has(limit));
    if (untold.length === 0) return;
    // Loaded by a run that has something to say.
    const { renderLimits } = await import("../render/limits.ts");
    const text = renderLimits(untold).map((line) => `bulkhead: ${line}\n`);
    await this.#outputs.stderr.write(Buffer.from(text.join("")));
  }

  async ended(): Promise<void> {
    // Both may be one.
    await Promise.all([...new Set(Object.values(this.#outputs))].map((output) => output.end()));
  }

  async failed(): Promise<boolean> {
    return false;
  }
}

/** The longest UTF-8 sequence, less the byte that would complete it. */
const MAX_TAIL_BYTES = 3;

/** @returns how many bytes at the end begin a character that the next chunk may complete. */
export function openTail(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(MAX_TAIL_BYTES, bytes.length); back++) {
    const byte = bytes[bytes.length - back] ?? 0;
    if (byte < 0x80) return 0;
    if (byte < 0xc0) continue;
    const needs = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
    return needs > back ? back : 0;
  }
  return 0;
}

/** One JSON object a line. Text that is UTF-8 is in `text`, anything else in `base64`; together they lose no byte. */
export class JsonReport implements Report {
  readonly #output: Output;
  #limits: readonly LimitName[] = [];
  readonly #tails: Record<Lane, Buffer> = { stdout: Buffer.alloc(0), stderr: Buffer.alloc(0) };
  #over = false;

  constructor(output: Output = openOutput(1)) {
    this.#output = output;
  }

  #line(event: Record<string, unknown>): Promise<void> {
    return this.#output.write(Buffer.from(`${JSON.stringify(event)}\n`));
  }

  #data(type: Lane, bytes: Buffer): Promise<void> {
    return this.#line(
      isUtf8(bytes) ? { type, text: bytes.toString("utf8") } : { type, base64: bytes.toString("base64") },
    );
  }

  started(facts: Started): Promise<void> {
    return this.#line({ type: "start", ...facts });
  }

  async chunk(lane: Lane, chunk: Uint8Array): Promise<void> {
    const bytes = Buffer.concat([this.#tails[lane], chunk]);
    const whole = bytes.length - openTail(bytes);
    this.#tails[lane] = bytes.subarray(whole);
    if (whole > 0) await this.#data(lane, bytes.subarray(0, whole));
  }

  /** The last line is `exit` or `error`, so what comes after it is not told. */
  async denied(denial: Denial): Promise<void> {
    if (this.#over) return;
    const { kind, name, address, port, rule, why } = denial;
    await this.#line({ type: "denied", kind, name, address, port, rule, why, next: allowingOption(denial) });
  }

  async #flush(): Promise<void> {
    this.#over = true;
    for (const lane of ["stdout", "stderr"] as const) {
      const tail = this.#tails[lane];
      this.#tails[lane] = Buffer.alloc(0);
      if (tail.length > 0) await this.#data(lane, tail);
    }
  }

  async limits(hits: readonly LimitHit[]): Promise<void> {
    await this.#flush();
    for (const { kind: _, ...hit } of hits) await this.#line({ type: "limit", ...hit });
    this.#limits = [...new Set(hits.map(({ limit }) => limit))];
  }

  async ended(ended: Ended, durationMs: number): Promise<void> {
    await this.#flush();
    const { code, signal } = ended;
    await this.#line({ type: "exit", code, signal, limits: this.#limits, durationMs: Math.round(durationMs) });
    await this.#output.end();
  }

  async failed(error: BulkheadError): Promise<boolean> {
    await this.#flush();
    await this.#line({ type: "error", ...error.toJSON(), exit: error.exitCode });
    await this.#output.end();
    return true;
  }
}
