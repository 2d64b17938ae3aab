import { StringDecoder } from "node:string_decoder";
import type { Readable } from "node:stream";

export interface LineHandlers {
  line(text: string): void;
  /** The stream has ended; an unfinished line is dropped. */
  end(): void;
  /** A line is longer than allowed. Nothing is read after it. */
  tooLong(): void;
}

/** Calls back for each line of a UTF-8 stream. `maxChars` bounds what is held of an unfinished line. */
export function splitLines(stream: Readable, maxChars: number, handlers: LineHandlers): void {
  const decoder = new StringDecoder("utf8");
  let parts: string[] = [];
  let held = 0;
  const onData = (chunk: Buffer): void => {
    const lines = decoder.write(chunk).split("\n");
    const rest = lines.pop() ?? "";
    for (const line of lines) {
      handlers.line(parts.join("") + line);
      parts = [];
      held = 0;
    }
    parts.push(rest);
    held += rest.length;
    if (held <= maxChars) return;
    stream.off("data", onData).resume();
    handlers.tooLong();
  };
  stream.on("data", onData).once("end", () => handlers.end());
}
