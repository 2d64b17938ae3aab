import { mkdtempSync, readFileSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { runProgram } from "../system/process.ts";
import { buildBase } from "./base.ts";

const repository = join(import.meta.dirname, "../../../..");

/** Pids of programs that were given a path below `state`. */
function builders(state: string): readonly string[] {
  return readdirSync("/proc").filter((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(`${state}/images/.new-`);
    } catch {
      return false;
    }
  });
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
  expect(builders(stateDir)).toEqual([]);
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
    await expect.poll(() => builders(stateDir), { timeout: 5000 }).toEqual([]);
    const mounts = readFileSync("/proc/self/mountinfo", "utf8");
    expect(mounts).not.toContain(stateDir);

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
