import type { Plan } from "@bulkhead/contract";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { Channel } from "../channel/channel.ts";
import { HostGone, TYPE } from "../channel/wire.gen.ts";
import { agentPath } from "../testing/config.ts";
import { rawFrame } from "../testing/fake-agent.ts";
import { CONFIGURE, startRealAgent } from "../testing/real-agent.ts";
import { Sandbox } from "./sandbox.ts";

if (agentPath === null) console.error("SKIPPED: the agent is not built (cargo build --release -p bulkhead-agent)");

// Needs the agent's binary, which cargo makes; the line above says loudly when it is not there.
describe.skipIf(agentPath === null)("the end of the real agent", () => {
  test("the host's end of file ends it; its death fails what is under way", async () => {
    await using first = await startRealAgent({ over: "fifos" });
    const running = first.box.exec("sleep 30");
    await running.pid;
    first.child.kill("SIGKILL");
    await expect(running).rejects.toMatchObject({
      code: "SANDBOX_GONE",
      why: "its first process was ended by SIGKILL",
    });
    await using second = await startRealAgent();
    second.channel.close();
    expect(await second.box.ended).toMatchObject({ signal: null });
  });

  test("a host that has its answers: the next one attaches with a few bytes", async () => {
    await using first = await startRealAgent({ over: "fifos", configure: { ...CONFIGURE, hostGone: HostGone.keep } });
    expect(await first.box.exec(["true"]).exit).toMatchObject({ exitCode: 0 });
    first.channel.close();
    for (let round = 0; round < 3; round += 1) {
      const next = await Channel.attach({ ...first.reopen(), fresh: false, answered: true });
      expect(next.hello.reattached).toBe(true);
      await next.ping();
      next.close();
    }
  });

  test("a host that dies within a frame: the next one attaches, processes went on", async () => {
    await using first = await startRealAgent({ over: "fifos", configure: { ...CONFIGURE, hostGone: HostGone.keep } });
    const sleeper = first.box.exec("sleep 1; echo late; sleep 30");
    const flood = first.box.exec(["yes"]);
    const [pid] = await Promise.all([sleeper.pid, flood.pid]);
    await sleep(50);
    // What a host leaves that is killed in the middle of a write: a header that promises more than comes.
    first.writable.write(rawFrame({ type: TYPE.Data, stream: 1, length: 60_000 }).subarray(0, 12));
    await sleep(20);
    first.channel.close();
    const channel = await Channel.attach({ ...first.reopen(), fresh: false });
    expect(channel.hello.reattached).toBe(true);
    const second = new Sandbox({
      id: "again",
      plan: {} as Plan,
      channel,
      ended: first.box.ended,
      release: async () => {},
    });
    const again = second.connect(pid);
    expect((await again.stdout[Symbol.asyncIterator]().next()).value.toString()).toBe("late\n");
    again.kill();
    expect((await again.exit).signal).toBe("SIGKILL");
    await second.kill();
  });
});
