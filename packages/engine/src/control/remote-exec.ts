import type { Readable } from "node:stream";
import type { Conversation } from "./client.ts";
import type { Asking } from "./remote.ts";

export interface RemoteExecOptions {
  /** `KEY=VALUE` each, added to the sandbox's own. */
  readonly env?: readonly string[];
  readonly cwd?: string;
  readonly user?: string;
  /** What is written reaches the program. Default: it reads nothing. */
  readonly stdin?: boolean;
  /** A terminal of this size instead of pipes; its output is all on stdout. */
  readonly pty?: { readonly rows: number; readonly cols: number };
  readonly signal?: AbortSignal;
}

/** A program in another process's sandbox. */
export class RemoteExecution {
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** Exit code, 128 + n when signal n ended it, and that signal. */
  readonly ended: Promise<{ readonly code: number; readonly signal: string | null }>;
  readonly #asked: Conversation;

  private constructor(asked: Conversation) {
    this.#asked = asked;
    this.stdout = asked.out;
    this.stderr = asked.err;
    this.ended = asked.result as RemoteExecution["ended"];
  }

  static async start(ask: Asking, argv: readonly string[], options: RemoteExecOptions): Promise<RemoteExecution> {
    const { signal, ...rest } = options;
    const asked = await ask({ op: "execute", argv, ...rest }, { signal });
    await asked.started;
    return new RemoteExecution(asked);
  }

  /** Resolves when the program's side has taken it. */
  write(bytes: Uint8Array): Promise<void> {
    return this.#asked.write(bytes);
  }

  endInput(): Promise<void> {
    return this.#asked.end();
  }

  kill(signal: string, options: { readonly group: boolean }): void {
    void this.#asked.control({ signal, group: options.group });
  }

  resize(size: { readonly rows: number; readonly cols: number }): void {
    void this.#asked.control(size);
  }
}
