import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { BulkheadError } from "@bulkhead/contract";
import type { Engine, Sandbox } from "@bulkhead/engine";
import { describe, expect, test } from "vitest";
import { agentPath } from "../../packages/engine/src/testing/config.ts";
import { startRealAgent } from "../../packages/engine/src/testing/real-agent.ts";
import { engineOf, lack, missing, openDirectory } from "./support/boxes.ts";
import { DRIVERS } from "./support/catalogue.ts";

const TIMEOUT_MS = 300_000;
/** An agent that was stopped never answers; then the wait for it ends. */
const ANSWER_MS = 8000;
const MIB = 1024 * 1024;
/** What a megabyte of junk and the answers to it may cost this process. */
const GROWTH_BYTES = 64 * MIB;

/**
 * Writes bytes that no agent says into everything that the process numbered by the argument holds open: through /proc, as
 * a copy of its descriptors, and through the devices a virtual machine's channel may be. Further arguments are descriptors to
 * leave alone. Prints what took any.
 */
const SPEAK_FOR_IT = `
import ctypes, glob, json, os, sys
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
junk = bytes(range(256)) * 16
took = []
def say(name, opened):
    try:
        handle = opened()
        os.set_blocking(handle, False)
        for _ in range(64): os.write(handle, junk)
        took.append(name)
    except BlockingIOError: took.append(name)
    except OSError: pass
places = glob.glob(f'/proc/{pid}/fd/*') + glob.glob('/dev/vport*') + glob.glob('/dev/hvc*')
left = [f'/proc/{pid}/fd/{number}' for number in sys.argv[2:]]
for place in places:
    if place not in left: say(place, lambda: os.open(place, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
held = libc.syscall(434, pid, 0)
for number in range(32):
    def copy():
        got = libc.syscall(438, held, number, 0)
        if got < 0: raise OSError(ctypes.get_errno(), 'pidfd_getfd')
        return got
    if held >= 0 and str(number) not in sys.argv[2:]: say(f'descriptor {number}', copy)
print(json.dumps(took), flush=True)`;

const END_IT = "import os, signal; os.kill(1, signal.SIGKILL); print('sent')";
const STOP_IT = "import os, signal; os.kill(1, signal.SIGSTOP); print('sent')";

/** Runs an attack. Whatever comes of it for its own sandbox, it is a result or a typed end. */
async function attack(box: Sandbox, code: string, ...args: readonly string[]): Promise<string> {
  try {
    return (await box.exec(["python3", "-c", code, ...args], { user: "root", timeoutMs: ANSWER_MS })).text.trim();
  } catch (error) {
    if (!(error instanceof BulkheadError)) throw error;
    expect(["CHANNEL_PROTOCOL", "SANDBOX_GONE", "TIMEOUT"]).toContain(error.code);
    return error.code;
  }
}

async function works(box: Sandbox): Promise<void> {
  expect(await box.exec(["sh", "-c", "echo right; exit 7"])).toMatchObject({ text: "right\n", exitCode: 7 });
}

const started = (engine: Engine): Promise<Sandbox> =>
  engine.create({ isolation: engine.candidates[0]?.driver.level ?? "container" });

// Without the agent's binary there is no control, and without the rest no sandbox.
describe.skipIf(missing.length > 0 || agentPath === null)(
  `a process inside that speaks for the agent${lack}`,
  { timeout: TIMEOUT_MS },
  () => {
    test("control: where processes can reach each other, its words arrive and end the channel", async () => {
      // Its standard error is this process's own.
      await using agent = await startRealAgent({ over: "fifos" });
      const { stdout } = await promisify(execFile)("python3", ["-c", SPEAK_FOR_IT, `${agent.child.pid}`, "2"]);
      expect(JSON.parse(stdout)).not.toEqual([]);
      expect(await agent.channel.closed).toMatchObject({ code: "CHANNEL_PROTOCOL" });
    });

    for (const driver of DRIVERS) {
      test(`${driver}: it ends its own sandbox at most; a neighbour and the engine go on`, async ({ skip }) => {
        using base = openDirectory();
        const engine = await engineOf(driver, join(base.path, "run"));
        if (typeof engine === "string") return skip(engine);
        await using _engine = engine;
        const neighbour = await started(engine);
        const before = process.memoryUsage().rss;
        for (const [name, code, ...args] of [
          ["words", SPEAK_FOR_IT, "1"],
          ["end", END_IT],
          ["stop", STOP_IT],
        ] as const) {
          await using box = await started(engine);
          console.log(`${driver}, ${name}: ${await attack(box, code, ...args)}`);
          // Whether it still answers or not, it can be ended, and is then gone.
          await box.kill();
          await box.ended;
          await works(neighbour);
        }
        expect(process.memoryUsage().rss - before).toBeLessThan(GROWTH_BYTES);
      });
    }
  },
);
