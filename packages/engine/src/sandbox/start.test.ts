import { existsSync, watch } from "node:fs";
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { BulkheadError } from "@bulkhead/contract";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Driver, ImageFiles } from "../drivers/driver.ts";
import { loadDrivers } from "../drivers/registry.ts";
import { readConfig, type Config } from "../host/config.ts";
import { gatherFacts, type HostFacts } from "../host/facts.ts";
import { probe } from "../host/probe.ts";
import { programOf } from "../policy/program.ts";
import type { ResolvedSpec } from "../policy/resolve.ts";
import { Keeper } from "../system/keeper.ts";
import { startSandbox, type StartedSandbox } from "./start.ts";

const MIB = 1024 * 1024;
/** Built by `cargo build --release --examples`. */
const ECHO = fileURLToPath(new URL("../../../../target/release/examples/echo", import.meta.url));
const KEEPER = readConfig().keeper;
const missing = [KEEPER, ECHO].filter((path) => !existsSync(path));
const why = process.getuid?.() !== 0 ? "needs root" : missing.length > 0 ? `${missing.join(", ")} not built` : null;
if (why !== null) console.warn(`SKIPPED: tests that start real sandboxes: ${why}`);

function spec(driver: Driver, changes: Partial<ResolvedSpec> = {}): ResolvedSpec {
  return {
    level: driver.level,
    levelReason: "test",
    hardware: false,
    image: "test",
    user: "root",
    env: {},
    mounts: [],
    volumes: [],
    network: "none",
    allowSetuid: false,
    hostname: "test",
    cpus: 1,
    memoryBytes: 64 * MIB,
    pids: 32,
    diskBytes: 8 * MIB,
    diskInodes: 1024,
    layer: { backing: "memory", keep: null },
    layerReason: "test",
    blockDevices: [],
    program: programOf({}, {}),
    makes: [],
    ...changes,
  };
}

/** Reads lines from the sandbox as they come. */
function lines(box: StartedSandbox): AsyncIterator<string> {
  async function* read(): AsyncGenerator<string> {
    let held = "";
    for await (const chunk of box.channel.readable.setEncoding("utf8")) {
      const parts = (held + String(chunk)).split("\n");
      held = parts.pop() ?? "";
      yield* parts;
    }
  }
  return read();
}

async function next(from: AsyncIterator<string>): Promise<string | undefined> {
  const { value, done } = await from.next();
  return done === true ? undefined : value;
}

// Only a root user with the built helpers can start a sandbox; the warning above says which is missing.
describe.skipIf(why !== null)("starting sandboxes", () => {
  let base: string;
  let config: Config;
  let host: HostFacts;
  let keeper: Keeper;
  let image: ImageFiles;
  let drivers: readonly Driver[];

  const start = (
    driver: Driver,
    changes: Partial<ResolvedSpec> = {},
    signal?: AbortSignal,
  ): Promise<StartedSandbox> => {
    const located = driver.locate(host);
    if (!located.ok) throw new Error(located.reason);
    const plan = driver.plan(spec(driver, changes), located.runtime, image, host);
    return startSandbox({ driver, plan, keeper, image, host, ...(signal === undefined ? {} : { signal }) });
  };

  beforeAll(async () => {
    base = await mkdtemp(join(tmpdir(), "bulkhead-start-"));
    // The runtimes look for the root file system as the sandbox's own root, who is nobody here.
    await chmod(base, 0o711);
    const { state } = readConfig();
    await mkdir(join(base, "state/runtimes"), { recursive: true });
    const runsc = join(state, "runtimes/runsc");
    if (existsSync(runsc)) await symlink(runsc, join(base, "state/runtimes/runsc"));
    config = { ...readConfig(), state: join(base, "state"), run: join(base, "run"), agent: ECHO };
    host = await gatherFacts(config);
    const rootfs = join(base, "rootfs");
    for (const name of ["dev", "proc", "sys", "tmp", "etc"]) await mkdir(join(rootfs, name), { recursive: true });
    await writeFile(join(rootfs, "secret"), "only root\n", { mode: 0o600 });
    image = { reference: "test", digest: "0".repeat(64), rootfs, usrBin: false };
    drivers = await loadDrivers(host);
    keeper = await Keeper.start({ path: config.keeper, runDir: config.run });
  });

  afterAll(async () => {
    await keeper?.[Symbol.asyncDispose]();
    const left = existsSync(config.run) ? await readdir(config.run) : [];
    await rm(base, { recursive: true, force: true });
    expect(left).toEqual([]);
  });

  describe.each(["container/crun", "container/runc", "gvisor/runsc"])("%s", (name) => {
    const withDriver = (work: (driver: Driver) => Promise<void>) => async (context: { skip(note?: string): void }) => {
      const driver = drivers.find((entry) => entry.name === name)!;
      const located = driver.locate(host);
      if (!located.ok) {
        console.warn(`SKIPPED: ${name}: ${located.reason}; ${located.remedy}`);
        return context.skip(located.reason);
      }
      await work(driver);
    };

    test(
      "gives a channel both ways, the plan's names and files, and leaves nothing",
      withDriver(async (driver) => {
        const box = await start(driver);
        const from = lines(box);
        expect(await next(from)).toBe("READY");
        box.channel.writable.write("hello\nread /etc/hostname\nread /secret\nread /proc/sys/kernel/hostname\n");
        expect(await next(from)).toBe("hello");
        expect(await next(from)).toBe("test");
        expect(await next(from)).toBe("only root");
        expect(await next(from)).toBe("test");
        await box.release();
        expect(existsSync(box.instance.dir)).toBe(false);
        expect(existsSync(`/sys/fs/cgroup/pids${box.instance.cgroup}`)).toBe(false);
        expect(existsSync(`/sys/fs/cgroup${box.instance.cgroup}`)).toBe(false);
        expect(await readFile("/proc/self/mountinfo", "utf8")).not.toContain(box.instance.id);
      }),
    );

    test(
      "carries a megabyte through and back",
      withDriver(async (driver) => {
        await using box = await start(driver);
        const from = lines(box);
        expect(await next(from)).toBe("READY");
        const line = "x".repeat(1023);
        const COUNT = 1024;
        for (let index = 0; index < COUNT; index += 1) box.channel.writable.write(`${line}\n`);
        for (let index = 0; index < COUNT; index += 1) expect(await next(from)).toBe(line);
      }),
    );

    test(
      "reports the end of process 1 and closes the channel",
      withDriver(async (driver) => {
        await using box = await start(driver);
        const from = lines(box);
        expect(await next(from)).toBe("READY");
        box.channel.writable.write("exit 7\n");
        expect(await next(from)).toBe(undefined);
        const ended = await box.ended;
        expect(ended.log).toContain("ending as told");
        // The Sentry's own exit code is not the agent's.
        if (!driver.capabilities.ownKernel) expect(ended).toMatchObject({ code: 7, signal: null, oomKilled: false });
      }),
    );

    test(
      "process 1 sees the end of its input when the host's end closes",
      withDriver(async (driver) => {
        await using box = await start(driver);
        const from = lines(box);
        expect(await next(from)).toBe("READY");
        box.channel.writable.end();
        expect(await next(from)).toBe(undefined);
        await box.ended;
      }),
    );

    test(
      "a start that is called off leaves nothing",
      withDriver(async (driver) => {
        const controller = new AbortController();
        const started = start(driver, {}, controller.signal);
        setTimeout(() => controller.abort(), 3);
        await expect(started).rejects.toMatchObject({ code: "ABORTED" });
        await expect.poll(() => readdir(join(config.run, keeper.hello.engine))).toEqual(["lock"]);
      }),
    );

    test(
      "a missing image is refused with its name",
      withDriver(async (driver) => {
        const located = driver.locate(host);
        if (!located.ok) return;
        const absent = { ...image, rootfs: join(base, "absent") };
        const plan = driver.plan(spec(driver), located.runtime, absent, host);
        const failure = await startSandbox({ driver, plan, keeper, image: absent, host }).catch(
          (error: unknown) => error,
        );
        expect(failure).toBeInstanceOf(BulkheadError);
        expect((failure as BulkheadError).message).toContain(absent.rootfs);
        expect((failure as BulkheadError).details["errno"]).toBe("ENOENT");
      }),
    );

    test(
      "the plan is the same for the same question",
      withDriver(async (driver) => {
        const located = driver.locate(host);
        if (!located.ok) return;
        const make = (): string => JSON.stringify(driver.plan(spec(driver), located.runtime, image, host));
        expect(make()).toBe(make());
      }),
    );

    test(
      "availability is found by starting, and remembered",
      withDriver(async (driver) => {
        let asked = 0;
        const options = { driver, host, keeper: async () => ((asked += 1), keeper) };
        expect(await probe(options)).toMatchObject({ ok: true });
        expect(await probe(options)).toMatchObject({ ok: true });
        expect(asked).toBe(1);
      }),
    );
  });

  test("a sandbox that uses up its inotify instances leaves the host's root its own", async (context) => {
    const driver = drivers.find((entry) => entry.name === "container/crun");
    if (driver?.locate(host).ok !== true) {
      console.warn("SKIPPED: inotify quota: crun is not installed");
      return context.skip("no crun");
    }
    await using box = await start(driver);
    const from = lines(box);
    expect(await next(from)).toBe("READY");
    box.channel.writable.write("inotify\n");
    expect(Number(await next(from))).toBeGreaterThan(0);
    expect(await next(from)).toContain("EMFILE");
    const watcher = watch(base);
    watcher.close();
  });

  test("an agent that cannot run makes a driver unavailable, with the reason", async () => {
    const broken = { ...host, paths: { ...host.paths, layer: join(base, "no-agent") } };
    await mkdir(broken.paths.layer, { recursive: true });
    const digests = { ...host.digests, agent: "another" };
    const driver = drivers[0]!;
    const verdict = await probe({ driver, host: { ...broken, digests }, keeper: async () => keeper });
    expect(verdict).toMatchObject({ ok: false });
  });

  test("every request fails once the keeper is gone", async () => {
    const other = await Keeper.start({ path: config.keeper, runDir: join(base, "run2") });
    const instance = await other.reserve();
    const ended = new Promise((resolve) => other.onEnded(instance, resolve));
    process.kill(other.hello.pid, "SIGKILL");
    expect(await ended).toMatchObject({ code: null, signal: null });
    await expect(other.reserve()).rejects.toMatchObject({ code: "KEEPER_FAILED" });
    await other[Symbol.asyncDispose]();
    await using next = await Keeper.start({ path: config.keeper, runDir: join(base, "run2") });
    await expect.poll(() => readdir(join(base, "run2"))).toEqual([next.hello.engine]);
  });

  test("a keeper that is not there is an error that names it", async () => {
    const failure = Keeper.start({ path: join(base, "nope"), runDir: config.run });
    await expect(failure).rejects.toMatchObject({ code: "KEEPER_FAILED", message: expect.stringContaining("nope") });
  });
});
