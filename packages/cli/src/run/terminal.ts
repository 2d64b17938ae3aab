import { ReadStream, WriteStream, isatty } from "node:tty";

export interface Size {
  readonly rows: number;
  readonly cols: number;
}

/** What a program sees when no terminal says otherwise. */
const DEFAULT_SIZE: Size = { rows: 24, cols: 80 };

/** The size of the first of our standard streams that is a terminal. */
export function terminalSize(): Size {
  for (const fd of [1, 0, 2]) {
    if (!isatty(fd)) continue;
    const stream = fd === 0 ? new WriteStream(0) : fd === 1 ? process.stdout : process.stderr;
    const [cols, rows] = stream.getWindowSize();
    if (cols > 0 && rows > 0) return { rows, cols };
  }
  return DEFAULT_SIZE;
}

/** Hands every key to the program inside; undone on disposal and, should that not run, when the process exits. */
export function rawMode(stdin: NodeJS.ReadStream): Disposable {
  if (!(stdin instanceof ReadStream)) return { [Symbol.dispose]: () => {} };
  const restore = (): void => void stdin.setRawMode(false);
  stdin.setRawMode(true);
  process.once("exit", restore);
  return {
    [Symbol.dispose]: () => {
      process.off("exit", restore);
      restore();
    },
  };
}

/** Calls back with the new size whenever the terminal is resized. */
export function onResize(callback: (size: Size) => void): Disposable {
  const listener = (): void => callback(terminalSize());
  process.on("SIGWINCH", listener);
  return { [Symbol.dispose]: () => void process.off("SIGWINCH", listener) };
}
