import assert from "node:assert/strict";
import { once } from "node:events";
import type { Box } from "../box.ts";
import { eventually, fails, theme, within } from "../check.ts";
import { PATIENCE } from "../patience.ts";

async function commands(box: Box): Promise<string[]> {
  return (await box.processes()).map((p) => p.command);
}

async function pidOf(box: Box, marker: string): Promise<number> {
  return await eventually(
    `process ${marker}`,
    async () => (await box.processes()).find((p) => new RegExp(`^sleep.${marker}`).test(p.command))?.pid,
  );
}

/** A sleep nobody else starts: its length is its name. */
function marker(): string {
  return `${100_000 + Math.floor(Math.random() * 800_000)}`;
}

export const processChecks = theme("processes", "function", (check) => {
  check("a signal reaches the process", async ({ box }) => {
    const code = "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done";
    const running = await box.start(["bash", "-c", code]);
    const seen: Buffer[] = [];
    running.stdout.on("data", (part: Buffer) => seen.push(part));
    await eventually("ready", () => Buffer.concat(seen).includes("ready"));
    await running.signal("SIGUSR1");
    assert.deepEqual(await within("exit", 10_000, running.exit), { code: 5, signal: null });
    await eventually("output", () => Buffer.concat(seen).includes("got"));
  });

  check("a signal to the process leaves its children, one to the group takes them", async ({ box }) => {
    const [one, two] = [marker(), marker()];
    const single = await box.start(["sh", "-c", `sleep ${one} & wait`]);
    await pidOf(box, one);
    await single.signal("SIGKILL");
    single.stdout.resume();
    const child = await pidOf(box, one);
    await box.signalProcess(child, "SIGKILL");
    assert.deepEqual(await single.exit, { code: null, signal: "SIGKILL" });
    const group = await box.start(["sh", "-c", `sleep ${two} & wait`]);
    await pidOf(box, two);
    await group.signal("SIGKILL", true);
    await within("exit", 10_000, group.exit);
    await eventually("the child is gone", async () => !(await commands(box)).some((c) => c.includes(two)));
  });

  check("SIGSTOP and SIGCONT", async ({ box }) => {
    const running = await box.start(["sleep", "30"]);
    await running.signal("SIGSTOP");
    await eventually("stopped", async () => {
      const status = (await box.run(["cat", `/proc/${running.pid}/status`])).stdout.toString();
      return /State:\s+T/.test(status);
    });
    await running.signal("SIGCONT");
    await running.signal("SIGTERM");
    assert.deepEqual(await within("exit", 10_000, running.exit), { code: null, signal: "SIGTERM" });
  });

  check("a signal to a process that is not there", async ({ box }) => {
    await fails("PROCESS_NOT_FOUND", () => box.signalProcess(3_999_999, "SIGTERM"));
  });

  check(
    "orphans go to process 1 and are reaped",
    async ({ box }) => {
      const length = marker();
      await box.run(["sh", "-c", `setsid sh -c 'sleep ${length} & exit' > /dev/null 2>&1 < /dev/null &`]);
      const pid = await pidOf(box, length);
      await eventually(
        "parent is process 1",
        async () => (await box.processes()).find((p) => p.pid === pid)?.ppid === 1,
      );
      await box.signalProcess(pid, "SIGKILL");
      await eventually("reaped", async () => !(await box.processes()).some((p) => p.pid === pid));
    },
    { notFor: (t) => (t.traits.level === null ? "the agent is not process 1 there" : null) },
  );

  check(
    "100 orphans that end leave no zombie",
    async ({ box }) => {
      await box.run(["sh", "-c", "i=0; while [ $i -lt 100 ]; do (setsid true &) ; i=$((i+1)); done"]);
      await eventually("no zombie", async () => {
        const result = await box.run(["sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null | awk '$3 == \"Z\"' | wc -l"]);
        return result.stdout.toString().trim() === "0";
      });
    },
    { notFor: (t) => (t.traits.level === null ? "the agent is not process 1 there" : null) },
  );

  check("a background process outlives the command that started it", async ({ box }) => {
    const length = marker();
    const result = await box.run(["sh", "-c", `sleep ${length} > /dev/null 2>&1 < /dev/null & echo $!`]);
    const pid = Number(result.stdout.toString());
    assert.ok((await box.processes()).some((p) => p.pid === pid && p.command.includes(length)));
    await box.signalProcess(pid, "SIGKILL");
    await eventually("gone", async () => !(await box.processes()).some((p) => p.pid === pid));
  });

  check("the process table tells pid, parent, user and command", async ({ box }) => {
    const length = marker();
    const running = await box.start(["sleep", length]);
    const entry = (await box.processes()).find((p) => p.pid === running.pid);
    assert.ok(entry, "the process is not in the table");
    assert.equal(entry.uid, 1000);
    assert.match(entry.command, new RegExp(`sleep.${length}`));
    await running.signal("SIGKILL");
    await running.exit;
  });

  check("50 programs at once, each with its own answer", async ({ box }) => {
    const results = await Promise.all(
      Array.from({ length: 50 }, (_, i) =>
        box.run(["sh", "-c", `cat; echo ${i} >&2; exit ${i}`], { input: `in ${i}` }),
      ),
    );
    results.forEach((result, i) => {
      assert.deepEqual([result.stdout.toString(), result.stderr.toString(), result.code], [`in ${i}`, `${i}\n`, i]);
    });
  });

  check("500 programs one after another leave nothing behind", async ({ box, target }) => {
    const before = (await box.processes()).length;
    for (let i = 0; i < 500; i += 10) await Promise.all(Array.from({ length: 10 }, () => box.run(["true"])));
    await eventually("the table is as before", async () => (await box.processes()).length <= before);
    if (target.traits.level === null) return;
    const fds = await box.run(["sh", "-c", "ls /proc/1/fd | wc -l"], { user: "root" });
    if (fds.code === 0 && fds.stdout.toString().trim() !== "0")
      assert.ok(Number(fds.stdout.toString()) < 40, `agent holds ${fds.stdout.toString().trim()} descriptors`);
  });

  check(
    "`kill -9 -1` by the user does not harm process 1",
    async ({ fresh }) => {
      const own = await fresh();
      const other = await own.start(["sleep", "60"]);
      await own.run(["sh", "-c", "kill -9 -1"]);
      assert.equal((await within("exit", 10_000, other.exit)).signal, "SIGKILL");
      assert.equal((await own.run(["echo", "alive"])).stdout.toString(), "alive\n");
    },
    { notFor: (t) => (t.traits.level === null ? "would reach the processes of this machine" : null) },
  );

  check(
    "root inside cannot kill or stop process 1",
    async ({ fresh }) => {
      const own = await fresh();
      await own.run(["sh", "-c", "kill -9 1; kill -STOP 1; kill -SEGV 1"], { user: "root" });
      assert.equal((await own.run(["echo", "alive"])).stdout.toString(), "alive\n");
    },
    {
      notFor: (t) => {
        if (t.traits.level === null) return "would reach the processes of this machine";
        return t.traits.level === "gvisor" ? "its kernel lets root end process 1, which ends the sandbox" : null;
      },
    },
  );

  check("killing the sandbox during programs ends each with a typed error, at once", async ({ fresh }) => {
    const own = await fresh();
    const running = await own.start(["sleep", "60"]);
    const ends = [
      fails(["SANDBOX_GONE", "CHANNEL_CLOSED"], () => own.run(["sleep", "60"])),
      fails(["SANDBOX_GONE", "CHANNEL_CLOSED"], () => running.exit),
      fails(["SANDBOX_GONE", "CHANNEL_CLOSED"], () =>
        own.run(["cat"], { input: Buffer.alloc(10_000_000) }).then(() => own.run(["sleep", "60"])),
      ),
    ];
    await settle();
    await own.kill();
    await within("the errors", 3_000, Promise.all(ends));
    await fails(["SANDBOX_GONE", "CHANNEL_CLOSED"], () => own.run(["true"]));
    await own.kill();
  });

  check("a program's timeout ends it with a typed error and kills its group", async ({ box }) => {
    const length = marker();
    const started = performance.now();
    await fails("TIMEOUT", () => box.run(["sh", "-c", `sleep ${length} & wait`], { timeoutMs: 500 }));
    assert.ok(performance.now() - started < 5_000 * PATIENCE, "the timeout came late");
    await eventually("group killed", async () => !(await commands(box)).some((c) => c.includes(length)));
  });

  check("aborting ends the wait at once and kills the group", async ({ box }) => {
    const length = marker();
    const controller = new AbortController();
    const pending = fails("ABORTED", () =>
      box.run(["sh", "-c", `sleep ${length} & wait`], { signal: controller.signal }),
    );
    await pidOf(box, length);
    controller.abort();
    await within("the error", 2_000, pending);
    await eventually("group killed", async () => !(await commands(box)).some((c) => c.includes(length)));
    await fails("ABORTED", () => box.run(["true"], { signal: AbortSignal.abort() }));
  });

  check("aborting file work and dialling", async ({ box, scratch }) => {
    await fails("ABORTED", () => box.files.read("/etc/passwd", { signal: AbortSignal.abort() }));
    await fails("ABORTED", () => box.files.list("/", { signal: AbortSignal.abort() }));
    await fails("ABORTED", () => box.dialTcp(9, { signal: AbortSignal.abort() }));
    await box.run(["mkfifo", `${scratch}/fifo`]);
    const pending = fails("ABORTED", () => box.files.read(`${scratch}/fifo`, { signal: AbortSignal.timeout(300) }));
    await within(
      "abort of a read that cannot end",
      5_000,
      pending.catch((error: unknown) => assertTyped(error)),
    );
  });

  check("ping 200 times while output floods", async ({ box }) => {
    const flood = await box.start(["yes"]);
    await once(flood.stdout, "data");
    flood.stdout.resume();
    for (let i = 0; i < 200; i++) await within("ping", 5_000, box.ping());
    await flood.signal("SIGKILL", true);
    await flood.exit;
  });
});

/** A FIFO is refused as not readable by some agents rather than waited for; both are typed and both end. */
function assertTyped(error: unknown): void {
  assert.equal((error as Error).name, "AssertionError");
  assert.match((error as Error).message, /got (FILE_|SPEC_INVALID)/);
}

async function settle(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 300));
}
