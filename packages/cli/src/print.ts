import { OutputClosed, openOutput } from "./run/output.ts";

/** Prints to standard output; a reader that has gone (`| head -1`) is no failure. */
export async function print(text: string): Promise<void> {
  try {
    const output = openOutput(1);
    await output.write(Buffer.from(text.endsWith("\n") ? text : `${text}\n`));
    await output.end();
  } catch (error) {
    if (!(error instanceof OutputClosed)) throw error;
  }
}

export function printJson(value: unknown): Promise<void> {
  return print(JSON.stringify(value, null, 2));
}
