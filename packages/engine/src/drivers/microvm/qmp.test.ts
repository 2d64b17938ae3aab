import { execFileSync } from "node:child_process";
import { closeSync, constants, openSync, readSync, writeSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { Qmp } from "./qmp.ts";

/** A monitor's end of the FIFOs, held open both ways as QEMU does. */
async function monitor(): Promise<{
  readonly path: string;
  readonly say: (text: string) => void;
  /** The id of the next command. */
  readonly heard: () => Promise<number>;
}> {
  const dir = await mkdtemp(join(tmpdir(), "qmp-"));
  const path = join(dir, "qmp");
  execFileSync("mkfifo", [`${path}.in`, `${path}.out`]);
  const [input, output] = [`${path}.in`, `${path}.out`].map((name) =>
    openSync(name, constants.O_RDWR | constants.O_NONBLOCK),
  ) as [number, number];
  onTestFinished(async () => {
    for (const fd of [input, output]) closeSync(fd);
    await rm(dir, { recursive: true });
  });
  const heard = async (): Promise<number> => {
    const buffer = Buffer.alloc(4096);
    return await expect
      .poll(() => {
        try {
          return readSync(input, buffer);
        } catch {
          return 0;
        }
      })
      .toBeGreaterThan(0)
      .then(() => (JSON.parse(buffer.toString("utf8", 0, buffer.indexOf("\n"))) as { id: number }).id);
  };
  return { path, say: (text) => void writeSync(output, text), heard };
}

test("answers are found among greetings, events, old answers and what is no message at all", async () => {
  const { path, say, heard } = await monitor();
  say('{"QMP":{}}\n{"return":{}}\n{"event":"STOP","data":{}}\n');
  using qmp = Qmp.overFifos(path);
  const answer = qmp.send({ execute: "one" });
  const id = await heard();
  say(`nonsense\nnull\n7\n"text"\n[]\n{"id":null}\n{"return":"old","id":${id - 1}}\n{"return":"mine","id":${id}}\n`);
  expect(await answer).toBe("mine");
  say(`{"return":"twice","id":${id}}\n`);
  const refused = qmp.send({ execute: "two" });
  const next = await heard();
  say(`{"error":null,"id":${next + 1}}\n{"error":{"desc":"no \\u001b[31m such"},"id":${next}}\n`);
  await expect(refused).rejects.toMatchObject({ code: "RUNTIME_FAILED", why: expect.not.stringContaining("\u001b") });
  const odd = qmp.send({ execute: "three" });
  say(`{"error":null,"id":${await heard()}}\n`);
  await expect(odd).rejects.toMatchObject({ code: "RUNTIME_FAILED" });
});

test("a line without end, and lines without end, fail what waits", async () => {
  for (const flood of ["x".repeat(8192), "{}\n".repeat(2730)]) {
    const { path, say } = await monitor();
    using qmp = Qmp.overFifos(path);
    const answer = qmp.send({ execute: "one" });
    let code: unknown;
    answer.catch((error: { code?: unknown }) => (code = error.code));
    while (code === undefined) {
      try {
        say(flood);
      } catch {
        // Full: nobody reads it any more.
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(code).toBe("RUNTIME_FAILED");
    await expect(qmp.send({ execute: "two" })).rejects.toMatchObject({ code: "RUNTIME_FAILED" });
  }
});

test("what waits when it is closed fails", async () => {
  const { path } = await monitor();
  const qmp = Qmp.overFifos(path);
  const answer = qmp.send({ execute: "one" });
  qmp[Symbol.dispose]();
  await expect(answer).rejects.toMatchObject({ code: "RUNTIME_FAILED" });
  expect(() => Qmp.overFifos(`${path}-none`)).toThrow(expect.objectContaining({ code: "RUNTIME_FAILED" }) as Error);
});
