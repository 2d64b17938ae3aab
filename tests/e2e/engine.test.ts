import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { Engine } from "@bulkhead/engine";
import { openCves } from "../../packages/engine/src/host/known-cves.ts";
import { lacking, leftovers } from "./cli-process.ts";

const SECONDS = 1000;
const missing = lacking(process.env);
const lack = missing.length > 0 ? `: NOT TESTED, this machine lacks ${missing.join(", ")}` : "";
const dir = mkdtempSync(join(tmpdir(), "bulkhead-engine-"));
chmodSync(dir, 0o755);
const run = join(dir, "run");
const open = () => Engine.open({ run });
const seen = (): string[] => (existsSync(run) ? readdirSync(run) : []);

afterAll(() => rmSync(dir, { recursive: true, force: true }));

// Sandboxes need root, the two binaries and an image: where one is missing nothing here can be true or false.
describe.skipIf(missing.length > 0)(`the library${lack}`, { timeout: 60 * SECONDS }, () => {
  test.each(["container", "gvisor"] as const)("a %s runs a command and is gone afterwards", async (isolation) => {
    let engines: string[] = [];
    {
      await using engine = await open();
      await using box = await engine.create({ isolation, env: { A: "b" } });
      const result = await box.exec(["sh", "-c", "echo $A; pwd; id -un; cat >&2"], { stdin: "in" });
      expect(result).toMatchObject({ exitCode: 0, text: "b\n/home/user\nuser\n", errorText: "in" });
      expect(box.plan.level).toBe(isolation);
      engines = seen();
      expect(engines).not.toEqual([]);
    }
    expect(leftovers(run, engines)).toEqual([]);
  });

  test("many at once, and the end of the engine ends them all", async () => {
    let engines: string[] = [];
    {
      await using engine = await open();
      const boxes = await Promise.all(Array.from({ length: 8 }, () => engine.create({ isolation: "container" })));
      const texts = await Promise.all(boxes.map(async (box, i) => (await box.exec(["echo", `${i}`])).text));
      expect(texts).toEqual(boxes.map((_, i) => `${i}\n`));
      engines = seen();
    }
    expect(leftovers(run, engines)).toEqual([]);
  });

  test("a runtime with known vulnerabilities is not used where that is refused", async () => {
    await using lenient = await open();
    const { runtimes } = lenient.host;
    await using strict = await Engine.open({ run, refuseKnownCves: true });
    for (const [name, found] of Object.entries(runtimes)) {
      if (found.kind !== "found") continue;
      const open = await openCves(found.runtime);
      expect(strict.host.runtimes[name]?.kind, `${name} ${open.join(" ")}`).toBe(open.length > 0 ? "refused" : "found");
    }
    for (const { driver, availability } of strict.candidates) {
      if (availability.ok) continue;
      const only = Engine.open({ run, refuseKnownCves: true, drivers: [driver.name] });
      await using engine = await only;
      const refused = engine.explain({ isolation: driver.level });
      await expect(refused).rejects.toMatchObject({ code: "LEVEL_UNAVAILABLE", why: availability.reason });
    }
  });

  test("a start that is called off leaves nothing", async () => {
    await using engine = await open();
    for (const afterMs of [0, 5, 20, 40]) {
      const signal = AbortSignal.timeout(afterMs);
      const made = engine.create({ isolation: "container" }, { signal });
      // A start may be faster than its end; then there is a sandbox, which must work.
      const box = await made.catch((error: unknown) => {
        expect(error).toMatchObject({ code: "ABORTED" });
        return undefined;
      });
      if (box !== undefined) expect((await box.exec(["true"])).exitCode).toBe(0);
      await box?.kill();
    }
    const [name = ""] = seen();
    expect(readdirSync(join(run, name)).filter((entry) => /^s[0-9a-f]+$/.test(entry))).toEqual([]);
    await expect(Engine.open({ run, signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "ABORTED" });
  });

  test("the time limit ends what runs with TIMEOUT", async () => {
    await using engine = await open();
    await using box = await engine.create({ isolation: "container", timeoutMs: 300 });
    await expect(box.exec(["sleep", "60"])).rejects.toMatchObject({ code: "TIMEOUT", exitCode: 124 });
    await box.ended;
  });

  test("a program that takes more memory than it may is killed, and the sandbox goes on", async () => {
    await using engine = await open();
    await using box = await engine.create({ isolation: "container", memoryBytes: 64 * 1024 * 1024 });
    const { exitCode } = await box.exec(["python3", "-c", "x = bytearray(512 * 1024 * 1024)"]);
    expect(exitCode).toBe(137);
    expect((await box.exec(["echo", "still here"])).text).toBe("still here\n");
  });

  test("a full disk is the program's own error, and the sandbox goes on", async () => {
    await using engine = await open();
    await using box = await engine.create({ isolation: "container", diskBytes: 8 * 1024 * 1024 });
    const full = await box.exec("head -c 64M /dev/zero > /tmp/big");
    expect(full.exitCode).not.toBe(0);
    expect(full.errorText).toMatch(/No space left on device/);
    expect((await box.exec(["echo", "still here"])).text).toBe("still here\n");
  });

  test("what was refused was refused before anything started", async () => {
    await using engine = await open();
    const before = seen();
    await expect(engine.create({ isolation: "container", trust: "untrusted" })).rejects.toMatchObject({
      code: "POLICY_REFUSED",
    });
    await expect(engine.create({ image: "no/such" }, { pull: "never" })).rejects.toMatchObject({
      code: "IMAGE_NOT_FOUND",
    });
    await expect(engine.create({ isolation: "docker" as never })).rejects.toMatchObject({ code: "SPEC_INVALID" });
    expect(seen()).toEqual(before);
  });

  test("explain gives what create carries out", async () => {
    await using engine = await open();
    const explained = await engine.explain({ isolation: "gvisor", pids: 77 });
    await using box = await engine.create({ isolation: "gvisor", pids: 77 });
    expect(box.plan).toEqual(explained.plan);
    expect(explained.digest).toMatch(/^sha256:/);
    expect(explained.steps.at(-1)?.op).toBe("run");
  });

  test("doctor has started every driver it calls working", async () => {
    await using engine = await open();
    const { levels } = await engine.doctor();
    const found = Object.fromEntries(levels.map(({ level, works }) => [level, works]));
    expect(found).toMatchObject({ container: true, gvisor: true });
    // A host has it or not; what it says of it has to be what happens.
    const outcome = await engine.create({ isolation: "microvm" }).then(
      (box) => box.kill().then(() => "made"),
      (error: { code?: string }) => error.code,
    );
    expect(outcome).toBe(found["microvm"] === true ? "made" : "LEVEL_UNAVAILABLE");
  });
});
