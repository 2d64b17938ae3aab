import { spawn } from "node:child_process";
import { once } from "node:events";
import { BulkheadError } from "@bulkhead/contract";

/** A lock that is not had by then is being waited for, and `onWait` says so. */
const WAIT_NOTICE_MS = 300;
/** No program's own exit code here. */
const CONFLICT = 99;

export interface FileLockOptions {
  readonly signal?: AbortSignal;
  /** Called once when somebody else holds the lock. */
  readonly onWait?: () => void;
  /** What to fail with when somebody else holds the lock. Default: it is waited for. */
  readonly busy?: () => BulkheadError;
  /** Others may hold it too, as long as all of them share it. */
  readonly shared?: boolean;
}

/**
 * Takes a lock on a file, exclusive unless it is to be shared. The file is created when missing and never removed. The lock is
 * held by a small process whose standard input is ours: when this process dies, however it dies, the kernel releases the lock.
 *
 * @returns the lock; disposing of it releases it
 * @throws what `busy` gives; BulkheadError ABORTED, HOST_UNSUPPORTED when flock(1) is missing, HOST_RESOURCE when the file cannot be opened
 */
export async function lockFile(path: string, options: FileLockOptions = {}): Promise<AsyncDisposable> {
  options.signal?.throwIfAborted();
  const kind = options.shared === true ? "--shared" : "--exclusive";
  const patience = options.busy === undefined ? [] : ["--nonblock", "--conflict-exit-code", `${CONFLICT}`];
  const holder = spawn("flock", [kind, ...patience, path, "sh", "-c", "echo locked; exec cat >/dev/null"], {
    stdio: ["pipe", "pipe", "pipe"],
    // Out of reach of the terminal's Ctrl-C: the lock ends when its owner says so or dies.
    detached: true,
  });
  let stderr = "";
  holder.stderr.on("data", (chunk: Buffer) => (stderr = (stderr + chunk.toString()).slice(-1000)));
  holder.stdin.on("error", () => {});
  // A program that cannot be started closes too, which is where it is dealt with.
  holder.on("error", () => {});
  const closed = new Promise<void>((resolve) => holder.once("close", () => resolve()));
  const release = async (): Promise<void> => {
    holder.stdin.end();
    // A holder that still waits for the lock does not read its input.
    if (holder.pid !== undefined) killQuietly(holder.pid);
    await closed;
  };
  const notice = setTimeout(() => options.onWait?.(), WAIT_NOTICE_MS);
  try {
    const got = await Promise.race([
      once(holder.stdout, "data", options.signal === undefined ? {} : { signal: options.signal }).then(() => true),
      closed.then(() => false),
    ]);
    if (!got && holder.exitCode === CONFLICT && options.busy !== undefined) throw options.busy();
    if (!got && holder.pid !== undefined) {
      throw new BulkheadError("HOST_RESOURCE", {
        what: `cannot lock ${path}`,
        why: stderr.trim() || "flock ended early",
      });
    }
    if (!got) {
      throw new BulkheadError("HOST_UNSUPPORTED", {
        what: 'program "flock" is not installed',
        next: "install util-linux and try again",
      });
    }
  } catch (cause) {
    await release();
    if (options.signal?.aborted !== true) throw cause;
    throw new BulkheadError("ABORTED", { what: `stopped waiting for the lock on ${path}`, cause });
  } finally {
    clearTimeout(notice);
  }
  return { [Symbol.asyncDispose]: release };
}

function killQuietly(pid: number): void {
  try {
    process.kill(-pid, "SIGTERM");
  } catch {
    // Already gone.
  }
}
