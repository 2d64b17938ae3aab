import type { Sandbox } from "../sandbox/sandbox.ts";
import type { ControlServer } from "./server.ts";

/** Where other processes find the sandboxes of one engine: opened by the first of them, so that opening an engine costs nothing. */
export class ControlPoint implements AsyncDisposable {
  readonly #run: string;
  readonly #boxes: ReadonlySet<Sandbox>;
  #server: Promise<ControlServer> | undefined;

  constructor(run: string, boxes: ReadonlySet<Sandbox>) {
    this.#run = run;
    this.#boxes = boxes;
  }

  /** @param engine as its keeper calls it. @throws BulkheadError HOST_RESOURCE */
  listen(engine: string): Promise<ControlServer> {
    const open = async (): Promise<ControlServer> => {
      const { ControlServer } = await import("./server.ts");
      return await ControlServer.open(this.#run, engine, this.#boxes);
    };
    if (this.#server === undefined) {
      this.#server = open();
      this.#server.catch(() => (this.#server = undefined));
    }
    return this.#server;
  }

  /** @throws BulkheadError SANDBOX_NAME_TAKEN, HOST_RESOURCE, ABORTED */
  async claim(name: string, engine: string, signal?: AbortSignal): Promise<AsyncDisposable> {
    const { directory } = await this.listen(engine);
    const { claimName } = await import("./names.ts");
    return await claimName(name, this.#run, directory, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const server = await this.#server?.catch(() => undefined);
    await server?.[Symbol.asyncDispose]();
  }
}
