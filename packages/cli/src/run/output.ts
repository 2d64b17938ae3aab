import { constants, fstatSync, openSync, writeSync } from "node:fs";
import { Socket } from "node:net";
import type { Writable } from "node:stream";

/** The reader of our output has gone: not a failure, the program is ended and nothing more is said. */
export class OutputClosed extends Error {
  override readonly name = "OutputClosed";
}

export interface Output {
  /** Resolves when the next chunk is welcome. @throws OutputClosed */
  write(chunk: Uint8Array): Promise<void>;
  /** Resolves when everything is handed to the kernel. @throws OutputClosed */
  end(): Promise<void>;
}

/** EAGAIN on a descriptor someone else made non-blocking: the wait between two tries. */
const RETRY_MS = 5;

function isClosed(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return (
    code === "EPIPE" || code === "ECONNRESET" || code === "ERR_STREAM_DESTROYED" || code === "EIO" || code === "EBADF"
  );
}

class StreamOutput implements Output {
  readonly #stream: Writable;
  #failure: Error | undefined;

  constructor(stream: Writable) {
    this.#stream = stream;
    stream.on("error", (error: Error) => (this.#failure ??= error));
  }

  #check(): void {
    if (this.#failure === undefined) return;
    if (isClosed(this.#failure)) throw new OutputClosed();
    throw this.#failure;
  }

  async write(chunk: Uint8Array): Promise<void> {
    this.#check();
    await new Promise<void>((done) => this.#stream.write(chunk, () => done()));
    this.#check();
  }

  async end(): Promise<void> {
    await this.write(new Uint8Array());
  }
}

class FileOutput implements Output {
  readonly #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  async write(chunk: Uint8Array): Promise<void> {
    for (let offset = 0; offset < chunk.length;) {
      try {
        offset += writeSync(this.#fd, chunk, offset);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "EAGAIN") await new Promise((r) => setTimeout(r, RETRY_MS));
        else if (isClosed(error)) throw new OutputClosed();
        else throw error;
      }
    }
  }

  async end(): Promise<void> {}
}

/**
 * A pipe is opened a second time: writes to the inherited description would block the event loop while the reader is
 * slow, so that no signal is heard, and making that description non-blocking would change it for its other holders.
 */
function reopenPipe(fd: number): Socket | undefined {
  try {
    const own = openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK);
    return new Socket({ fd: own, readable: false, writable: true });
  } catch {
    return undefined;
  }
}

/** One of our own standard streams, written with back-pressure and without blocking on a slow pipe. */
export function openOutput(fd: 1 | 2): Output {
  let kind;
  try {
    kind = fstatSync(fd);
  } catch {
    return new FileOutput(fd);
  }
  if (kind.isFIFO()) {
    const pipe = reopenPipe(fd);
    if (pipe !== undefined) return new StreamOutput(pipe);
  }
  if (kind.isFile()) return new FileOutput(fd);
  return new StreamOutput(fd === 1 ? process.stdout : process.stderr);
}
