import type { Copied, LimitHit, Network, SandboxEvent } from "@bulkhead/engine";
import type { Duplex, Readable, Writable } from "node:stream";

/** What the checks need of a sandbox. Each target adapts its own objects to it, so that no check knows who made the box. */
export interface Box extends AsyncDisposable {
  readonly id: string;
  /** Runs a program to its end and collects what it wrote. */
  run(argv: readonly string[], options?: RunOptions): Promise<RunResult>;
  start(argv: readonly string[], options?: StartOptions): Promise<Running>;
  /** The program the image is for, with these arguments; none: with the image's own. */
  runProgram(args: readonly string[]): Promise<RunResult>;
  startProgram(args: readonly string[]): Promise<Running>;
  /** Ends that program as it wants to be ended, and the sandbox. */
  stop(): Promise<void>;
  pty(argv: readonly string[], options: PtyOptions): Promise<RunningPty>;
  readonly files: Files;
  copyIn(from: string, to: string, options?: As): Promise<Copied>;
  copyOut(from: string, to: string, options?: As): Promise<Copied>;
  dialTcp(port: number, options?: Waiting): Promise<Duplex>;
  dialUnix(path: string, options?: Waiting & { readonly user?: string }): Promise<Duplex>;
  /** Where the host finds a TCP port of the sandbox. */
  url(port: number): Promise<string>;
  /** What may leave. */
  readonly network: Pick<Network, "update" | "denials">;
  ping(): Promise<void>;
  /** The limits that were reached until now. */
  limitsReached(): Promise<readonly LimitHit[]>;
  events(): AsyncIterable<SandboxEvent>;
  processes(): Promise<readonly ProcessEntry[]>;
  signalProcess(pid: number, signal: string, group?: boolean): Promise<void>;
  /** Listens to a process that runs already. */
  connect(pid: number): Promise<Running>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  snapshot(where: string): Promise<void>;
  fork(count: number, hostname?: (index: number) => string): Promise<readonly Box[]>;
  kill(): Promise<void>;
  /** Settles when the sandbox is gone, for whatever reason. */
  readonly gone: Promise<unknown>;
}

export type Text = string | Uint8Array;

export interface Waiting {
  readonly signal?: AbortSignal;
}

export interface StartOptions extends Waiting {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly user?: string;
  readonly rlimits?: Readonly<Record<string, { readonly soft: number; readonly hard: number }>>;
  readonly timeoutMs?: number;
  /** Whether standard input is a pipe the caller writes to; otherwise it is at its end from the start. */
  readonly stdin?: boolean;
}

export interface RunOptions extends Omit<StartOptions, "stdin"> {
  readonly input?: Uint8Array | string;
  readonly maxOutputBytes?: number;
  /** How long output is waited for that others than the program itself still write when it has ended. */
  readonly drainGraceMs?: number;
}

export interface Exit {
  /** null when a signal ended it. */
  readonly code: number | null;
  /** `SIGKILL`, or null. */
  readonly signal: string | null;
}

export interface RunResult extends Exit {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
}

export interface Running {
  readonly pid: number;
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  readonly exit: Promise<Exit>;
  signal(name: string, group?: boolean): Promise<void>;
}

export interface PtyOptions extends Omit<StartOptions, "stdin" | "rlimits"> {
  readonly rows: number;
  readonly cols: number;
}

export interface RunningPty {
  readonly pid: number;
  readonly input: Writable;
  readonly output: Readable;
  readonly exit: Promise<Exit>;
  resize(rows: number, cols: number): Promise<void>;
}

export interface As extends Waiting {
  readonly user?: string;
}

export type Kind = "file" | "directory" | "symlink" | "fifo" | "socket" | "block" | "character";

export interface FileEntry {
  /** Bytes as they are inside; names need not be UTF-8. */
  readonly path: Buffer;
  readonly kind: Kind;
  /** Permission bits only. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly owner: string;
  readonly group: string;
  readonly size: number;
  readonly mtimeMs: number;
  readonly target: Buffer | null;
}

export type WriteHow = "truncate" | "append" | "exclusive" | "atomic";

export interface Files {
  read(path: Text, options?: As & { offset?: number; length?: number }): Promise<Buffer>;
  readStream(path: Text, options?: As): Promise<Readable>;
  write(path: Text, data: Text, options?: As & { how?: WriteHow; mode?: number; makeParents?: boolean }): Promise<void>;
  writeStream(path: Text, data: Readable, options?: As): Promise<void>;
  stat(path: Text, options?: As & { follow?: boolean }): Promise<FileEntry>;
  list(path: Text, options?: As & { depth?: number }): Promise<readonly FileEntry[]>;
  makeDirectory(path: Text, options?: As & { mode?: number; parents?: boolean }): Promise<void>;
  move(from: Text, to: Text, options?: As & { overwrite?: boolean }): Promise<void>;
  remove(path: Text, options?: As & { recursive?: boolean }): Promise<void>;
  chmod(path: Text, mode: number, options?: As): Promise<void>;
  chown(path: Text, owner: string, group: string, options?: As): Promise<void>;
  symlink(path: Text, target: Text, options?: As): Promise<void>;
  watch(path: Text, options?: As & { recursive?: boolean }): Promise<Watching>;
}

export interface WatchEvent {
  readonly kind: "create" | "write" | "remove" | "rename" | "chmod" | "overflow";
  readonly path: Buffer;
}

export interface Watching extends AsyncDisposable {
  readonly events: AsyncIterable<WatchEvent>;
}

export interface ProcessEntry {
  readonly pid: number;
  readonly ppid: number;
  readonly uid: number;
  readonly state: string;
  readonly command: string;
}
