import { BulkheadError, type Plan } from "@bulkhead/contract";
import type { Duplex } from "node:stream";
import type { Channel, PingOptions } from "../channel/channel.ts";
import type { EndReason } from "../drivers/driver.ts";
import type { Hello } from "../channel/wire.gen.ts";
import { Network } from "../egress/network.ts";
import type { CallOptions, Inside } from "./calls.ts";
import { dial, type DialTarget } from "./dial.ts";
import { untrustedText } from "./errors.ts";
import { Execution } from "./exec.ts";
import type { Command, ExecOptions } from "./exec-request.ts";
import { Files } from "./files.ts";
import { publish, type PublishedPort, type PublishOptions } from "./publish.ts";
import { listProcesses, type ProcessInfo, readUsage, type SandboxUsage, signalProcess } from "./processes.ts";
import { openPty, type Pty, type PtyOptions } from "./pty.ts";
import type { SignalInput } from "./signals.ts";

/** The end of process 1, as the host saw it. */
export interface SandboxEnd {
  readonly code: number | null;
  readonly signal: string | null;
  /** The kernel killed for want of memory inside the sandbox's limit. */
  readonly oomKilled: boolean;
  /** Where more is known than how the process ended: a guest kernel's panic, with its console's last lines. */
  readonly reason?: EndReason | null;
}

export interface SandboxParts {
  readonly id: string;
  readonly plan: Plan;
  readonly channel: Channel;
  /** Where processes start unless told otherwise. Default: the user's home. */
  readonly workdir?: string | null;
  /** Default: none. */
  readonly network?: Network;
  /** Resolves, never rejects, when process 1 has ended. */
  readonly ended: Promise<SandboxEnd>;
  /** Ends everything that runs inside and undoes everything that was acquired for it. */
  release(): Promise<void>;
}

/** The channel's end of file comes some milliseconds before the host knows why. */
const EXPLAIN_WITHIN_MS = 500;

/** One running sandbox. `await using` ends it. */
export class Sandbox implements AsyncDisposable {
  readonly id: string;
  readonly plan: Plan;
  readonly files: Files;
  readonly network: Network;
  /** Resolves when process 1 has ended, by itself or by `kill`. */
  readonly ended: Promise<SandboxEnd>;
  readonly #channel: Channel;
  readonly #hello: Hello;
  readonly #release: () => Promise<void>;
  readonly #workdir: string | null;
  readonly #inside: Inside;
  readonly #published = new Map<number, Promise<PublishedPort>>();
  #killed: Promise<void> | null = null;
  #ending = false;

  constructor(parts: SandboxParts) {
    this.id = parts.id;
    this.plan = parts.plan;
    this.ended = parts.ended;
    this.#channel = parts.channel;
    this.#hello = parts.channel.hello;
    this.#workdir = parts.workdir ?? null;
    this.#release = () => parts.release();
    this.#inside = { channel: parts.channel, explain: (error) => this.#explain(error) };
    this.files = new Files(this.#inside);
    this.network = parts.network ?? new Network(null);
  }

  /** What the agent said of itself when it was attached to. Untrusted. */
  get guest(): { readonly agentVersion: string; readonly kernelRelease: string; readonly bootId: string } {
    const { agentVersion, kernelRelease, bootId } = this.#hello;
    return {
      agentVersion: untrustedText(agentVersion),
      kernelRelease: untrustedText(kernelRelease),
      bootId: untrustedText(bootId),
    };
  }

  /** Starts a process. The request is on its way when this returns. */
  exec(command: Command, options: ExecOptions = {}): Execution {
    return new Execution(this.#inside, { kind: "exec", command }, this.#placed(options));
  }

  /**
   * Listens to a process that `exec` started. Output that came while nobody listened is lost. `signal` and `timeoutMs` end
   * the listening, not the process.
   */
  connect(
    pid: number,
    options: Pick<ExecOptions, "signal" | "timeoutMs" | "maxOutputBytes" | "check" | "drainGraceMs"> = {},
  ): Execution {
    return new Execution(this.#inside, { kind: "connect", pid }, options);
  }

  /** A process at a terminal; an interactive shell by default. */
  async pty(options: PtyOptions = {}): Promise<Pty> {
    return openPty(this.#inside, this.#placed(options));
  }

  async processes(options: CallOptions = {}): Promise<ProcessInfo[]> {
    return listProcesses(this.#inside, options);
  }

  /** Any process inside, by its pid there. Default: that process alone, not its group. */
  async signal(
    pid: number,
    signal: SignalInput,
    options: CallOptions & { readonly group?: boolean } = {},
  ): Promise<void> {
    return signalProcess(this.#inside, pid, signal, options);
  }

  async usage(options: CallOptions = {}): Promise<SandboxUsage> {
    return readUsage(this.#inside, options);
  }

  /** @returns the round trip to the agent, in milliseconds. */
  async ping(options: PingOptions = {}): Promise<number> {
    return this.#channel.ping(options);
  }

  /** Connects to a TCP port or a Unix socket inside. */
  async dial(target: DialTarget, options: CallOptions = {}): Promise<Duplex> {
    return dial(this.#inside, target, options);
  }

  /** Makes a TCP port inside reachable on this host, on 127.0.0.1 unless told otherwise, for as long as the sandbox lives. */
  async publish(port: number, options: PublishOptions = {}): Promise<PublishedPort> {
    return publish(this.#inside, port, options);
  }

  /** Where a program on this host finds what listens on that port inside: `http://127.0.0.1:40123`. Published at the first call. */
  async url(port: number): Promise<string> {
    const published = this.#published.get(port) ?? this.publish(port);
    this.#published.set(port, published);
    published.catch(() => this.#published.delete(port));
    return (await published).url;
  }

  /**
   * Ends the sandbox and waits until nothing of it is left. Idempotent; everything under way rejects with `reason`, by
   * default SANDBOX_GONE.
   */
  kill(reason?: BulkheadError): Promise<void> {
    this.#killed ??= this.#end(reason);
    return this.#killed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  #placed<O extends { readonly cwd?: string }>(options: O): O {
    const cwd = options.cwd ?? this.#workdir;
    return cwd === null ? options : { ...options, cwd };
  }

  async #end(reason?: BulkheadError): Promise<void> {
    this.#ending = true;
    this.#channel.close(reason ?? new BulkheadError("SANDBOX_GONE", { what: `sandbox ${this.id} was ended` }));
    await this.#release();
  }

  async #explain(error: BulkheadError): Promise<BulkheadError> {
    if (error.code !== "SANDBOX_GONE" || this.#ending) return error;
    const end = await within(this.ended, EXPLAIN_WITHIN_MS);
    if (end === null) return error;
    const reason = end.reason ?? null;
    const why =
      reason !== null
        ? reason.why
        : end.oomKilled
          ? "it used more memory than its limit"
          : end.signal === null
            ? `its first process exited with ${end.code}`
            : `its first process was ended by ${end.signal}`;
    return new BulkheadError("SANDBOX_GONE", {
      what: `sandbox ${this.id} is gone`,
      why,
      ...(reason?.next !== undefined ? { next: reason.next } : end.oomKilled ? { next: "give it more memory" } : {}),
      details: { ...end },
      cause: error,
    });
  }
}

async function within<T>(promise: Promise<T>, ms: number): Promise<T | null> {
  const late = Promise.withResolvers<null>();
  const timer = setTimeout(() => late.resolve(null), ms);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
