import { constants } from "node:fs";
import { type FileHandle, chmod, mkdir, open, readdir } from "node:fs/promises";
import { createConnection, type Server, type Socket } from "node:net";
import { join } from "node:path";

/** In an engine's directory, and root's alone; the keeper removes it with all that is in it. */
export const DIRECTORY = "control";
const SOCKET = "socket";
const NAME_PREFIX = "name-";
const PRIVATE = 0o700;
const PRIVATE_SOCKET = 0o600;
const OTHERS = 0o077;
const ENGINE = /^e[0-9a-f]{16}$/;
/** A backlog that is full, or a machine that is out of everything: nobody is waited for longer. */
const CONNECT_TIMEOUT_MS = 2_000;

/**
 * The control directory of one engine, held open. Its socket is reached by the descriptor: a path of any length fits, and
 * nothing that is renamed above leads elsewhere.
 */
export class ControlDirectory implements AsyncDisposable {
  readonly engine: string;
  readonly #handle: FileHandle;

  private constructor(engine: string, handle: FileHandle) {
    this.engine = engine;
    this.#handle = handle;
  }

  static async make(run: string, engine: string): Promise<ControlDirectory> {
    const path = join(run, engine, DIRECTORY);
    await mkdir(path, { mode: PRIVATE }).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
    });
    const made = await ControlDirectory.of(run, engine);
    if (made === null) throw new Error(`${path} is not root's alone`);
    return made;
  }

  /** Null where there is none, or where others than root could have put something into it. */
  static async of(run: string, engine: string): Promise<ControlDirectory | null> {
    const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
    const handle = await open(join(run, engine, DIRECTORY), flags).catch(() => null);
    if (handle === null) return null;
    const { uid, mode } = await handle.stat();
    if (uid === process.getuid?.() && (mode & OTHERS) === 0) return new ControlDirectory(engine, handle);
    await handle.close();
    return null;
  }

  /** Those of a run directory, of engines that live and of ones that nobody has swept yet. */
  static async all(run: string): Promise<ControlDirectory[]> {
    const names = await readdir(run).catch(() => []);
    const opened = await Promise.all(names.filter((name) => ENGINE.test(name)).map((name) => this.of(run, name)));
    return opened.filter((one) => one !== null);
  }

  /** The path of a file in it, good for as long as this is held. */
  #at(name: string): string {
    return `/proc/self/fd/${this.#handle.fd}/${name}`;
  }

  nameFile(name: string): string {
    return this.#at(`${NAME_PREFIX}${name}`);
  }

  async listen(server: Server): Promise<void> {
    const path = this.#at(SOCKET);
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject).listen({ path }, () => {
        server.off("error", reject);
        resolve();
      });
    });
    await chmod(path, PRIVATE_SOCKET);
  }

  /** Null where nobody listens any more. */
  async connect(): Promise<Socket | null> {
    const socket = createConnection({ path: this.#at(SOCKET) });
    const connected = await new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(false), CONNECT_TIMEOUT_MS);
      const settle = (value: boolean) => (): void => {
        clearTimeout(timer);
        resolve(value);
      };
      socket.once("connect", settle(true)).on("error", settle(false));
    });
    if (connected) return socket;
    socket.destroy();
    return null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close();
  }
}
