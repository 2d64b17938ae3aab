import type { Readable } from "node:stream";
import type { Memory, Standing, Work } from "../peer.ts";
import type { Timing } from "../timing.ts";
import { timeProgram } from "../timing.ts";

export interface CommandStanding {
  /** The command that runs `argv` inside. */
  readonly exec: (argv: readonly string[], options: { readonly input: boolean }) => readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  readonly file: string;
  readonly memory: () => Promise<Memory>;
  readonly end: () => Promise<void>;
}

/** A running sandbox that is reached by running a command for each thing. */
export function standing(by: CommandStanding): Standing {
  const env = by.env === undefined ? {} : { env: by.env };
  const counted = async (argv: readonly string[], bytes: number): Promise<number> => {
    let seen = 0;
    const { doneMs } = await timeProgram(by.exec(argv, { input: false }), { ...env, onBytes: (n) => (seen += n) });
    if (seen !== bytes) throw new Error(`${seen} bytes came, not ${bytes}`);
    return doneMs;
  };
  return {
    exec: (work: Work): Promise<Timing> =>
      timeProgram(by.exec(work.argv, { input: false }), { ...env, expect: work.expect }),
    pullOutput: (bytes) => counted(["head", "-c", String(bytes), "/dev/zero"], bytes),
    writeFile: async (_bytes: number, input: Readable) =>
      (await timeProgram(by.exec(["sh", "-c", `cat > ${by.file}`], { input: true }), { ...env, input })).doneMs,
    readFile: (bytes) => counted(["cat", by.file], bytes),
    memory: by.memory,
    [Symbol.asyncDispose]: by.end,
  };
}
