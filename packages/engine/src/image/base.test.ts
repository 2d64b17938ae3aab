import { mkdtempSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { runProgram } from "../system/process.ts";
import { buildBase } from "./base.ts";

const repository = join(import.meta.dirname, "../../../..");

function builders(state: string): Promise<string> {
  return runProgram(["pgrep", "-f", `mmdebstrap.*${state}`], { timeoutMs: 5000 }).then((result) => result.stdout);
}

test("stopping a build leaves neither a directory nor a process", { timeout: 60_000 }, async () => {
  const stateDir = mkdtempSync(join(tmpdir(), "bulkhead-base-"));
  const stop = new AbortController();
  const building = buildBase({
    stateDir,
    signal: stop.signal,
    onProgress: ({ phase }) => void (phase === "extract" && stop.abort()),
  });
  await expect(building).rejects.toMatchObject({ code: "ABORTED" });
  expect(readdirSync(join(stateDir, "images"))).toEqual(["build.lock"]);
  expect(await builders(stateDir)).toBe("");
});

test(
  "kill -9 of the builder ends the build and its mounts; the directory goes with the next one",
  { timeout: 60_000 },
  async () => {
    const stateDir = mkdtempSync(join(tmpdir(), "bulkhead-base-"));
    const script = `
    const { buildBase } = await import(${JSON.stringify(join(repository, "packages/engine/src/image/base.ts"))});
    const onProgress = ({ phase }) => { if (phase === "extract") process.kill(process.pid, "SIGKILL"); };
    await buildBase({ stateDir: ${JSON.stringify(stateDir)}, onProgress });
  `;
    const killed = await runProgram([process.execPath, "--input-type=module", "--eval", script], { timeoutMs: 50_000 });
    expect(killed.signal).toBe("SIGKILL");
    await expect.poll(() => builders(stateDir), { timeout: 5000 }).toBe("");
    const mounts = await runProgram(["findmnt", "--noheadings", "--output", "TARGET"], { timeoutMs: 5000 });
    expect(mounts.stdout).not.toContain(stateDir);

    const left = (): string[] => readdirSync(join(stateDir, "images")).filter((name) => name.startsWith(".new-"));
    expect(left()).toHaveLength(1);
    const [dead] = left();
    const stop = new AbortController();
    const next = buildBase({
      stateDir,
      signal: stop.signal,
      onProgress: ({ phase }) => void (phase === "update" && stop.abort()),
    });
    await expect(next).rejects.toMatchObject({ code: "ABORTED" });
    expect(left()).not.toContain(dead);
  },
);
