import type { Sandbox } from "../sandbox/sandbox.ts";
import type { Ask } from "./ask.ts";
import { Kind } from "./frames.ts";
import type { Session } from "./operations.ts";

/** A descendant that holds the program's output open delays the end by this silence at most, as for `run`. */
const DRAIN_GRACE_MS = 50;

const sizeOf = (ask: Ask): { rows: number; cols: number } => ({ rows: ask.number("rows"), cols: ask.number("cols") });

/** `KEY=VALUE` each. */
function environment(words: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    words.map((word) => {
      // Without a name it is refused, as for the library.
      const equals = Math.max(0, word.indexOf("="));
      return [word.slice(0, equals), word.slice(equals + 1)];
    }),
  );
}

/**
 * A program in a sandbox, with the client's input and signals; its output goes to the client as fast as that takes it. A
 * client that goes takes the program with it.
 * @returns how it ended
 */
export async function execute(box: Sandbox, ask: Ask, session: Session): Promise<unknown> {
  const { peer, input, signal } = session;
  const terminal = ask.has("pty");
  const interactive = ask.flag("stdin");
  const execution = box.exec(ask.texts("argv"), {
    stdin: interactive,
    env: environment(ask.texts("env")),
    drainGraceMs: DRAIN_GRACE_MS,
    signal,
    ...ask.given("user", (field) => ask.text(field)),
    ...ask.given("cwd", (field) => ask.text(field)),
    ...(terminal && { pty: sizeOf(ask.part("pty")) }),
  });
  session.onControl((control) => {
    if (control.has("signal")) execution.kill(control.text("signal"), { group: control.flag("group") });
    else execution.resize(sizeOf(control));
  });
  await execution.pid;
  await peer.send(Kind.started);
  if (interactive) input.pipe(execution.stdin).on("error", () => input.resume());
  const pump = async (lane: AsyncIterable<unknown>, kind: typeof Kind.data | typeof Kind.errorData): Promise<void> => {
    for await (const piece of lane) await peer.data(kind, piece as Buffer);
  };
  const [status] = await Promise.all([
    execution.exit,
    pump(execution.stdout, Kind.data),
    ...(terminal ? [] : [pump(execution.stderr, Kind.errorData)]),
  ]);
  return { code: status.exitCode, signal: status.signal };
}
