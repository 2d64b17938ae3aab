import type { Execution, ExecOptions, ExitStatus, Sandbox } from "@bulkhead/engine";
import type { Readable } from "node:stream";
import type {
  Box,
  Exit,
  FileEntry,
  Files,
  Running,
  RunResult,
  StartOptions,
  Text,
  WatchEvent,
  Watching,
  WriteHow,
} from "../box.ts";

type EngineEntry = Awaited<ReturnType<Sandbox["files"]["stat"]>>;

function programsOf(sandbox: Sandbox): Pick<Box, "run" | "start" | "runProgram" | "startProgram" | "stop" | "pty"> {
  return {
    run: async (argv, { input, maxOutputBytes, ...rest } = {}) => {
      const options = {
        ...execOptions(rest),
        ...(input === undefined ? {} : { stdin: input }),
        ...(maxOutputBytes === undefined ? {} : { maxOutputBytes }),
      };
      const result = await sandbox.exec(argv, options);
      return { ...exitOf(result.status), stdout: result.stdout, stderr: result.stderr } satisfies RunResult;
    },
    start: async (argv, { stdin, ...rest } = {}) =>
      await runningOf(sandbox.exec(argv, { ...execOptions(rest), stdin: stdin === true }), stdin === true),
    runProgram: async (args) => {
      const result = await sandbox.run(args);
      return { ...exitOf(result.status), stdout: result.stdout, stderr: result.stderr } satisfies RunResult;
    },
    startProgram: async (args) => await runningOf(sandbox.run(args), false),
    stop: () => sandbox.stop(),
    pty: async (argv, options) => {
      const pty = await sandbox.pty({ ...options, cmd: argv });
      return {
        pid: await pty.pid,
        input: pty.input,
        output: pty.output,
        exit: quietly(pty.exit.then(exitOf)),
        resize: async (rows, cols) => pty.resize(rows, cols),
      };
    },
  };
}

/** The engine's sandbox as the checks see one. */
export function boxOf(sandbox: Sandbox): Box {
  return {
    id: sandbox.id,
    ...programsOf(sandbox),
    files: filesOf(sandbox),
    copyIn: (from, to, options) => sandbox.copyIn(from, to, options),
    copyOut: (from, to, options) => sandbox.copyOut(from, to, options),
    dialTcp: (port, options) => sandbox.dial(port, options),
    dialUnix: (path, { user, ...options } = {}) =>
      sandbox.dial(user === undefined ? { unix: path } : { unix: path, user }, options),
    limitsReached: () => sandbox.limitsReached(),
    events: () => sandbox.events(),
    url: (port) => sandbox.url(port),
    network: sandbox.network,
    ping: async () => void (await sandbox.ping()),
    processes: async () =>
      (await sandbox.processes()).map((p) => ({
        pid: p.pid,
        ppid: p.parentPid,
        uid: p.uid,
        state: p.state,
        command: p.command,
      })),
    signalProcess: (pid, signal, group) =>
      sandbox.signal(pid, signal as "SIGTERM", group === undefined ? {} : { group }),
    connect: async (pid) => await runningOf(sandbox.connect(pid), true),
    pause: () => sandbox.pause(),
    resume: () => sandbox.resume(),
    snapshot: async (where) => void (await sandbox.snapshot(where)),
    fork: async (count, hostname) => (await sandbox.fork(count, hostname === undefined ? {} : { hostname })).map(boxOf),
    kill: () => sandbox.kill(),
    gone: sandbox.ended,
    [Symbol.asyncDispose]: () => sandbox.kill(),
  };
}

function execOptions(options: Omit<StartOptions, "stdin">): ExecOptions {
  return options;
}

function exitOf(status: ExitStatus): Exit {
  return { code: status.signal === null ? status.exitCode : null, signal: status.signal };
}

async function runningOf(execution: Execution, hasInput: boolean): Promise<Running> {
  const pid = await execution.pid;
  const exit = quietly(execution.exit.then(exitOf));
  return {
    pid,
    get stdin() {
      if (!hasInput) throw new Error("standard input was not asked for");
      return execution.stdin;
    },
    get stdout() {
      return execution.stdout;
    },
    get stderr() {
      return execution.stderr;
    },
    exit,
    signal: async (name, group = false) => execution.kill(name as "SIGTERM", { group }),
  };
}

/** A check that does not look at an exit must not bring down the run by its rejection. */
function quietly<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}

function entryOf(entry: EngineEntry): FileEntry {
  return {
    path: Buffer.from(entry.pathBytes),
    kind: entry.kind,
    mode: entry.mode,
    uid: entry.uid,
    gid: entry.gid,
    owner: entry.owner,
    group: entry.group,
    size: entry.size,
    mtimeMs: entry.modifiedMs,
    target: entry.targetBytes === null ? null : Buffer.from(entry.targetBytes),
  };
}

const HOW: Readonly<Record<WriteHow, object>> = {
  truncate: {},
  append: { append: true },
  exclusive: { exclusive: true },
  atomic: { atomic: true },
};

function filesOf(sandbox: Sandbox): Files {
  const { files } = sandbox;
  return {
    read: (path, options) => files.read(path, options),
    readStream: (path, options) => files.readStream(path, options),
    write: async (path: Text, data: Text, { how = "truncate", makeParents, ...rest } = {}) =>
      void (await files.write(path, data, {
        ...rest,
        ...HOW[how],
        ...(makeParents === undefined ? {} : { parents: makeParents }),
      })),
    writeStream: async (path: Text, data: Readable, options) => void (await files.write(path, data, options)),
    stat: async (path, options) => entryOf(await files.stat(path, options)),
    list: async (path, options) => (await files.list(path, options)).map(entryOf),
    makeDirectory: (path, options) => files.mkdir(path, options),
    move: (from, to, options) => files.move(from, to, options),
    remove: (path, options) => files.remove(path, options),
    chmod: (path, mode, options) => files.chmod(path, mode, options),
    chown: (path, owner, group, options) => files.chown(path, { owner, group }, options),
    symlink: (path, target, options) => files.symlink(target, path, options),
    watch: async (path, options): Promise<Watching> => {
      const watcher = await files.watch(path, options);
      async function* events(): AsyncGenerator<WatchEvent> {
        for await (const event of watcher) yield { kind: event.kind, path: Buffer.from(event.pathBytes) };
      }
      return { events: events(), [Symbol.asyncDispose]: async () => await watcher[Symbol.asyncDispose]() };
    },
  };
}
