import { Malformed, type WireReader } from "../channel/codec.ts";
import { readWatchEvent, WatchKind } from "../channel/wire.gen.ts";
import { begin, type CallOptions, type Inside, RecordReader } from "./calls.ts";
import { type GuestPath, pathBytes, quote, textOf } from "./names.ts";

export type WatchEventKind = keyof typeof WatchKind;

/** `overflow`: events were lost, look again at everything. */
export interface FileEvent {
  readonly kind: WatchEventKind;
  readonly path: string;
  readonly pathBytes: Uint8Array;
  readonly isDirectory: boolean;
}

export interface WatchOptions extends CallOptions {
  /** Also everything below. Default false. */
  readonly recursive?: boolean;
  readonly user?: string;
}

/** Events as they come. Ends by `close`, by leaving the loop, or by `signal` (then the loop throws ABORTED). */
export interface Watcher extends AsyncIterable<FileEvent>, AsyncDisposable {
  close(): void;
}

const KINDS: ReadonlyMap<number, WatchEventKind> = new Map(
  Object.entries(WatchKind).map(([name, number]) => [number, name as WatchEventKind]),
);

function readEvent(reader: WireReader): FileEvent {
  const event = readWatchEvent(reader);
  const kind = KINDS.get(event.kind);
  if (kind === undefined) throw new Malformed("a file event of an unknown kind");
  return { kind, path: textOf(event.path), pathBytes: event.path, isDirectory: event.isDirectory };
}

/** Resolves when the watch is in place: every change after that is seen. A reader that lags gets `overflow`. */
export async function watch(inside: Inside, path: GuestPath, options: WatchOptions = {}): Promise<Watcher> {
  const body = { path: pathBytes(path), recursive: options.recursive ?? false, user: options.user ?? "" };
  const { stream, opened } = begin(inside, { name: "Watch", body }, `watch of ${quote(path)}`, options);
  const lane = stream.out.readable(() => stream.cancel());
  await opened;
  const close = (): void => stream.cancel();
  async function* events(): AsyncGenerator<FileEvent, void, undefined> {
    const reader = new RecordReader(readEvent);
    try {
      for await (const piece of lane) yield* reader.push(piece as Buffer);
    } catch (error) {
      if (!(error instanceof Malformed)) throw error;
      inside.channel.violation(error);
      throw await inside.channel.closed;
    } finally {
      close();
    }
  }
  return { close, [Symbol.asyncIterator]: events, [Symbol.asyncDispose]: async () => close() };
}
