import { createWriteStream } from "node:fs";
import { mkdir, mkdtemp } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { BulkheadError } from "@bulkhead/contract";
import { readyProbe } from "../../guest/ready.ts";
import { startPiped, type PipedProgram } from "../../system/piped.ts";
import { removeTree } from "../../system/remove-tree.ts";
import { qemuArgv, templateCommands, type Boot, type Machine } from "./qemu.ts";
import { Qmp } from "./qmp.ts";

/**
 * A guest under emulation is ready in 0.4 s on an idle machine, in 4 s with virtualisation inside emulation, and in ten times
 * that on a machine that others keep busy. One that cannot run at all ends at once.
 */
const READY_TIMEOUT_MS = 60_000;
/** What the agent has buffered while it started is given back within that time, and is in no template then. */
const SETTLE_MS = 200;
const POLL_MS = 3;
const SAVE_TIMEOUT_MS = 20_000;

export interface BareGuestOptions {
  /** It has a device that serves host directories, with none to serve: while none is mounted a guest can be saved. */
  readonly sharing?: boolean;
  readonly signal?: AbortSignal | undefined;
}

async function emptyDirectory(path: string): Promise<string> {
  await mkdir(path, { mode: 0o700 });
  return path;
}

/**
 * A guest with our kernel and our agent and nothing else in it: no image, no disk, nobody's code. It is what templates are
 * taken from, so QEMU runs as this user and not in a jail.
 */
export class BareGuest implements AsyncDisposable {
  readonly #qemu: PipedProgram;
  readonly #sockets: string;
  readonly #stack: AsyncDisposableStack;

  private constructor(qemu: PipedProgram, sockets: string, stack: AsyncDisposableStack) {
    this.#qemu = qemu;
    this.#sockets = sockets;
    this.#stack = stack;
  }

  /**
   * @param memory file that holds the guest's memory, made when it is not there
   * @returns once the agent answers
   * @throws BulkheadError RUNTIME_FAILED, TIMEOUT, ABORTED
   */
  static async boot(
    machine: Machine,
    boot: Boot,
    memory: string,
    { sharing = false, signal }: BareGuestOptions = {},
  ): Promise<BareGuest> {
    await using stack = new AsyncDisposableStack();
    // A socket's path has room for 107 bytes, which a state directory's may exceed.
    const sockets = await mkdtemp(join(tmpdir(), "bulkhead-"));
    stack.defer(() => removeTree(sockets, tmpdir()));
    const shared = sharing ? { path: await emptyDirectory(join(sockets, "shared")), readOnly: true } : null;
    const argv = qemuArgv(machine, { kind: "template", boot, memory, qmp: join(sockets, "qmp"), shared });
    const qemu = stack.use(startPiped(argv));
    await answered(qemu, signal);
    return new BareGuest(qemu, sockets, stack.move());
  }

  /** Writes the state of the devices to `path` and ends the guest, whose memory stays in its file. */
  async save(path: string): Promise<void> {
    const socket = join(this.#sockets, "state");
    await sleep(SETTLE_MS);
    await using stack = new AsyncDisposableStack();
    const written = Promise.withResolvers<void>();
    written.promise.catch(() => undefined);
    const server = createServer((stream) => {
      server.close();
      pipeline(stream, createWriteStream(path, { mode: 0o600 })).then(written.resolve, written.reject);
    });
    stack.defer(() => void server.close());
    await new Promise<void>((resolve) => server.listen(socket, resolve));
    using qmp = await Qmp.open(join(this.#sockets, "qmp"));
    for (const command of templateCommands(socket)) await qmp.send(command);
    await completed(qmp);
    await written.promise;
    qmp.send({ execute: "quit" }).catch(() => undefined);
    await this.#qemu.ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

async function answered(qemu: PipedProgram, signal?: AbortSignal): Promise<void> {
  const { question, answer } = readyProbe();
  const limit = AbortSignal.timeout(READY_TIMEOUT_MS);
  const stop = signal === undefined ? limit : AbortSignal.any([signal, limit]);
  const end = (): void => void qemu.stdout.destroy();
  stop.addEventListener("abort", end, { once: true });
  try {
    qemu.stdin.write(question);
    let got = Buffer.alloc(0);
    for await (const chunk of qemu.stdout.iterator({ destroyOnReturn: false })) {
      got = Buffer.concat([got, chunk as Buffer]).subarray(-2 * answer.length);
      if (got.includes(answer)) return;
    }
  } catch (cause) {
    if (!stop.aborted) throw cause;
  } finally {
    stop.removeEventListener("abort", end);
  }
  if (signal?.aborted === true) throw new BulkheadError("ABORTED", { what: "the guest's start was called off" });
  const what = `a guest did not answer within ${READY_TIMEOUT_MS / 1000} s`;
  if (stop.aborted) throw new BulkheadError("TIMEOUT", { what });
  const { code, stderr } = await qemu.ended;
  throw new BulkheadError("RUNTIME_FAILED", {
    what: `QEMU ended with code ${code} before its guest was ready`,
    why: stderr.trim().split("\n").at(-1) || "it said nothing",
  });
}

async function completed(qmp: Qmp): Promise<void> {
  const deadline = performance.now() + SAVE_TIMEOUT_MS;
  while (performance.now() < deadline) {
    const { status, "error-desc": why } = (await qmp.send({ execute: "query-migrate" })) as Record<string, string>;
    if (status === "completed") return;
    if (status === "failed")
      throw new BulkheadError("RUNTIME_FAILED", { what: "a template cannot be saved", why: why ?? status });
    await sleep(POLL_MS);
  }
  throw new BulkheadError("TIMEOUT", { what: `a template was not saved within ${SAVE_TIMEOUT_MS / 1000} s` });
}
