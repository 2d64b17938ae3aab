import { describe, expect, test } from "vitest";
import { runChecked, runProgram } from "./process.ts";

const timeoutMs = 10_000;

describe("runProgram", () => {
  test("keeps both streams apart and gives the exit code", async () => {
    const result = await runProgram(["sh", "-c", "echo out; echo err >&2; exit 7"], { timeoutMs });
    expect(result).toEqual({ exitCode: 7, signal: null, stdout: "out\n", stderr: "err\n", truncated: false });
  });

  test("names the signal that ended the program", async () => {
    const result = await runProgram(["sh", "-c", "kill -9 $$"], { timeoutMs });
    expect(result).toMatchObject({ exitCode: null, signal: "SIGKILL" });
  });

  test("keeps only the end of a large output", async () => {
    const result = await runProgram(["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; printf end"], {
      timeoutMs,
      maxOutputBytes: 1000,
    });
    expect(result.stdout).toHaveLength(1000);
    expect(result.stdout.endsWith("xend")).toBe(true);
    expect(result.truncated).toBe(true);
  });

  test("hands out lines, also a last one without an end, and cuts endless ones", async () => {
    const lines: string[] = [];
    const onLine = (line: string, stream: string): void => void lines.push(`${stream}:${line.length}`);
    await runProgram(["sh", "-c", "echo ab; echo c >&2; head -c 100000 /dev/zero | tr '\\0' x"], { timeoutMs, onLine });
    expect(lines.toSorted()).toEqual(["stderr:1", "stdout:2", "stdout:4096"]);
  });

  test("a program that does not exist is a typed error with a next step", async () => {
    await expect(runProgram(["no-such-program-here"], { timeoutMs })).rejects.toMatchObject({
      code: "HOST_UNSUPPORTED",
      next: "install no-such-program-here and try again",
    });
  });

  test("timeout and abort kill the whole process group", async () => {
    const script = ["sh", "-c", "sleep 300 & echo $!; wait"];
    const pids: number[] = [];
    const onLine = (line: string): void => void pids.push(Number(line));
    await expect(runProgram(script, { timeoutMs: 300, onLine })).rejects.toMatchObject({ code: "TIMEOUT" });
    const stop = new AbortController();
    const running = runProgram(script, {
      timeoutMs,
      signal: stop.signal,
      onLine: (line) => (onLine(line), stop.abort()),
    });
    await expect(running).rejects.toMatchObject({ code: "ABORTED" });
    expect(pids).toHaveLength(2);
    // Orphans stay visible as zombies until process 1 collects them.
    await expect.poll(() => pids.filter(isAlive), { timeout: 5000 }).toEqual([]);
  });

  test("runChecked turns a failure into the code asked for, with the last line as why", async () => {
    const failing = runChecked(["sh", "-c", "echo first >&2; echo last >&2; exit 3"], {
      timeoutMs,
      failure: "IMAGE_BUILD_FAILED",
      next: "look at the log",
    });
    await expect(failing).rejects.toMatchObject({
      code: "IMAGE_BUILD_FAILED",
      message: "sh ended with exit code 3",
      why: "last",
      next: "look at the log",
    });
  });

  test("runChecked calls a program what it is said to be", async () => {
    const failing = runChecked(["env", "sh", "-c", "exit 3"], { timeoutMs, failure: "RUNTIME_FAILED", name: "sh" });
    await expect(failing).rejects.toMatchObject({ message: "sh ended with exit code 3" });
  });
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
