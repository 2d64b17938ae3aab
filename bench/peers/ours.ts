import { join } from "node:path";
import type { Engine, Sandbox } from "@bulkhead/engine";
import { stateDirectory } from "@bulkhead/engine/host";
import type { Lab } from "../lab.ts";
import { chargedTo, diskBytes, processesNaming, processesOf, pssOf } from "../lab.ts";
import type { Images, Memory, Peer, Standing, Work } from "../peer.ts";
import { output, type Timing, timeProgram } from "../timing.ts";

const FILE = "/tmp/bench-file";

/** @param started when what `doneMs` counts from was asked for */
export async function execute(box: Sandbox, work: Work, started: number): Promise<Timing> {
  const execution = box.exec(work.argv);
  let firstMs = Number.NaN;
  let text = "";
  for await (const part of execution.stdout) {
    if (Number.isNaN(firstMs)) firstMs = performance.now() - started;
    text += (part as Buffer).toString();
  }
  const { exitCode } = await execution.exit;
  const doneMs = performance.now() - started;
  if (exitCode !== 0 || text !== work.expect)
    throw new Error(`${work.name} ended with ${exitCode} and answered ${JSON.stringify(text)}`);
  return { firstMs, doneMs };
}

async function counted(stream: AsyncIterable<unknown>, bytes: number, started: number): Promise<number> {
  let seen = 0;
  for await (const part of stream) seen += (part as Buffer).length;
  if (seen !== bytes) throw new Error(`${seen} bytes came, not ${bytes}`);
  return performance.now() - started;
}

async function memoryOf(id: string): Promise<Memory> {
  const inside = await processesOf(id);
  return {
    pssBytes: await pssOf([...inside, ...(await processesNaming(id))]),
    chargedBytes: await chargedTo(inside[0] ?? 0),
  };
}

export function standingIn(box: Sandbox, memory = (): Promise<Memory> => memoryOf(box.id)): Standing {
  return {
    exec: (work) => execute(box, work, performance.now()),
    pullOutput: async (bytes) => {
      const started = performance.now();
      const execution = box.exec(["head", "-c", String(bytes), "/dev/zero"]);
      return await counted(execution.stdout, bytes, started);
    },
    writeFile: async (_bytes, data) => {
      const started = performance.now();
      await box.files.write(FILE, data);
      return performance.now() - started;
    },
    readFile: async (bytes) => {
      const started = performance.now();
      return await counted(await box.files.readStream(FILE), bytes, started);
    },
    memory,
    [Symbol.asyncDispose]: () => box.kill(),
  };
}

export type OurLevel = "container" | "gvisor" | "microvm";

/** Bulkhead as a library in a process that runs already. */
export function ours(engine: Engine, level: OurLevel, name: string, against: string): Peer {
  return {
    name,
    against,
    cold: async (work) => {
      const started = performance.now();
      const box = await engine.create({ isolation: level });
      const readyMs = performance.now() - started;
      try {
        return { ...(await execute(box, work, started)), readyMs };
      } finally {
        await box.kill();
      }
    },
    stand: async () => standingIn(await engine.create({ isolation: level, diskBytes: 1024 * 1024 * 1024 })),
  };
}

/** Bulkhead as a command, its own start included. */
export function ourCommand(command: readonly string[], level: OurLevel, against: string, env: NodeJS.ProcessEnv): Peer {
  const tool = async (...words: readonly string[]): Promise<void> => {
    await output([...command, "image", ...words], env);
  };
  const images: Images = {
    run: (reference, work) =>
      timeProgram([...command, "run", "--isolation", level, "--image", reference, "--", ...work.argv], {
        ...{ expect: work.expect, env },
      }),
    pull: (reference) => tool("pull", reference),
    forget: async (references) => {
      for (const one of references) await tool("remove", one).catch(() => undefined);
      await tool("gc");
    },
    diskBytes: () => diskBytes(join(stateDirectory({}), "images")),
    ...(level === "microvm" && { convert: (reference: string) => tool("prepare", reference) }),
  };
  return {
    images,
    name: `bulkhead run (${level})`,
    against,
    cold: (work) =>
      timeProgram([...command, "run", "--isolation", level, "--", ...work.argv], { expect: work.expect, env }),
    stand: null,
  };
}

/** Ends every sandbox of ours when the bench is broken off. */
export function closeWith(lab: Lab, engine: Engine): void {
  lab.defer(() => engine[Symbol.asyncDispose]());
}
