import { StringDecoder } from "node:string_decoder";
import type { Readable } from "node:stream";

/**
 * Calls `onLine` for each line of a UTF-8 stream, and `onEnd` once with the reason: its end, or a line longer than
 * `maxBytes`, after which nothing more is read.
 */
export function splitLines(
  stream: Readable,
  maxBytes: number,
  onLine: (line: string) => void,
  onEnd: (why: string) => void,
): void {
  const decoder = new StringDecoder("utf8");
  let parts: string[] = [];
  let held = 0;
  const onData = (chunk: Buffer): void => {
    const lines = decoder.write(chunk).split("\n");
    const rest = lines.pop() ?? "";
    for (const line of lines) {
      onLine(parts.join("") + line);
      parts = [];
      held = 0;
    }
    parts.push(rest);
    held += rest.length;
    if (held <= maxBytes) return;
    stream.off("data", onData).off("end", onClose).pause();
    onEnd(`a line is longer than ${maxBytes} bytes`);
  };
  const onClose = (): void => onEnd("its socket was closed");
  stream.on("data", onData).once("end", onClose);
}
