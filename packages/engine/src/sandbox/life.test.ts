import { BulkheadError } from "@bulkhead/contract";
import { describe, expect, test } from "vitest";
import { agentPath } from "../testing/config.ts";
import { startRealAgent } from "../testing/real-agent.ts";
import { type Freeze, Life } from "./life.ts";

if (agentPath === null) console.error("SKIPPED: the agent is not built (cargo build --release -p bulkhead-agent)");

const code = (name: string): Error => expect.objectContaining({ code: name }) as Error;

// Needs the agent's binary, which cargo makes; the line above says loudly when it is not there.
describe.skipIf(agentPath === null)("pausing", () => {
  async function started(freeze: Freeze | null) {
    const agent = await startRealAgent();
    const life = new Life({ id: "test", channel: agent.channel, freeze, driver: "test" });
    return { agent, life, [Symbol.asyncDispose]: () => agent[Symbol.asyncDispose]() };
  }

  test("what is asked meanwhile is refused, and answered after; requests are carried out in their order", async () => {
    const said: boolean[] = [];
    await using one = await started(async (frozen) => void said.push(frozen));
    const { agent, life } = one;
    await Promise.all([life.pause(), life.resume(), life.pause()]);
    expect(said).toEqual([true, false, true]);
    expect(life.paused).toBe(true);
    await expect(agent.box.exec(["true"])).rejects.toThrow(code("SANDBOX_PAUSED"));
    await expect(agent.box.ping()).rejects.toThrow(code("SANDBOX_PAUSED"));
    await expect(life.whileRunning(async () => 1)).rejects.toThrow(code("SANDBOX_PAUSED"));
    await life.resume();
    expect((await agent.box.exec(["true"])).exitCode).toBe(0);
    expect(await life.whileRunning(async () => 1)).toBe(1);
  });

  test("one that cannot be frozen goes on", async () => {
    const failure = new BulkheadError("RUNTIME_FAILED", { what: "not still" });
    await using one = await started(async () => await Promise.reject(failure));
    await expect(one.life.pause()).rejects.toThrow(failure);
    expect(one.life.paused).toBe(false);
    expect((await one.agent.box.exec(["true"])).exitCode).toBe(0);
  });

  test("where the level cannot, or the sandbox is gone, that is said", async () => {
    await using one = await started(null);
    await expect(one.life.pause()).rejects.toThrow(code("NOT_SUPPORTED"));
    await expect(one.agent.box.snapshot("x")).rejects.toThrow(code("NOT_SUPPORTED"));
    await one.agent.box.kill();
    await expect(one.life.pause()).rejects.toThrow(code("SANDBOX_GONE"));
    await expect(one.life.whileRunning(async () => 1)).rejects.toThrow(code("SANDBOX_GONE"));
  });
});
