import type { LimitHit, LimitName } from "@bulkhead/engine";
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import type { Box } from "../box.ts";
import { eventually, fails, theme, within } from "../check.ts";
import { probe } from "./boundary.ts";

const MIB = 1024 * 1024;
const EAT = ["python3", "-c", "b=bytearray()\nwhile True: b+=b'x'*1048576"];
/** The kernel names at most ten victims in five seconds, those of all sandboxes together. */
const NAMED_TRIES = 4;
const NAMES_AGAIN_MS = 5_500;

async function hitsOf(box: Box, limit: LimitName): Promise<readonly LimitHit[]> {
  return (await box.limitsReached()).filter((hit) => hit.limit === limit);
}

export const limitEventChecks = theme("limits", "host", (check) => {
  check(
    "a program killed for memory is told, by its name",
    async ({ fresh }) => {
      for (let tries = 1; ; tries += 1) {
        const own = await fresh({ memoryBytes: 128 * MIB });
        const result = await own.run(EAT);
        assert.equal(result.signal, "SIGKILL");
        const [hit] = await hitsOf(own, "memory");
        assert.ok(hit !== undefined, "the program was killed and no event says why");
        assert.equal(hit.value, 128 * MIB);
        assert.equal(hit.killed?.what, "process");
        assert.equal((await own.run(["echo", "usable"])).stdout.toString(), "usable\n");
        if (hit.killed.command === "python3") return;
        assert.ok(tries < NAMED_TRIES, `the victim is ${hit.killed.command}`);
        await own.kill();
        await sleep(NAMES_AGAIN_MS);
      }
    },
    {
      timeoutMs: 240_000,
      notFor: (t) => (t.traits.level === "gvisor" ? "the Sentry itself is killed; see the next check" : null),
    },
  );

  check(
    "a sandbox killed for memory is told as that, by its error and by an event",
    async ({ fresh }) => {
      const own = await fresh({ memoryBytes: 128 * MIB });
      const ended = own.run(EAT).then(
        (result) => assert.notEqual(result.code, 0, "it succeeded"),
        (error: Error & { code?: string; details?: { limit?: string } }) => {
          assert.equal(error.code, "SANDBOX_GONE", String(error));
          assert.equal(error.details?.limit, "memory");
        },
      );
      await within("the end", 50_000, ended);
      const [hit] = await hitsOf(own, "memory");
      assert.equal(hit?.value, 128 * MIB);
      assert.ok(hit?.killed !== null);
    },
    { timeoutMs: 120_000, notFor: (t) => (t.traits.level === "gvisor" ? null : "only programs are killed there") },
  );

  check(
    "a program refused a process is told",
    async ({ fresh }) => {
      // gVisor's limit is on host tasks, of which it needs its own: enough processes inside reach it and end it.
      const own = await fresh({ pids: 40 });
      const code = `
import os,signal,sys
children=[]; refused=False
for _ in range(200):
    try: pid=os.fork()
    except OSError: refused=True; break
    if pid==0: signal.pause(); os._exit(0)
    children.append(pid)
for c in children: os.kill(c,9)
sys.exit(3 if refused else 0)`;
      const result = await own.run(["python3", "-c", code]);
      assert.equal(result.code, 3, "200 processes were possible with a limit of 40");
      const [hit] = await hitsOf(own, "pids");
      assert.equal(hit?.value, 40);
      assert.equal(hit.killed, null);
    },
    { timeoutMs: 120_000, notFor: (t) => (t.traits.level === "gvisor" ? "the limit counts host threads there" : null) },
  );

  check("a full disk is told, once for each time it fills up", async ({ fresh }) => {
    const own = await fresh({ diskBytes: 16 * MIB });
    for (const times of [1, 2]) {
      const filled = await own.run(["sh", "-c", "head -c 100000000 /dev/zero > /home/user/fill"]);
      assert.notEqual(filled.code, 0);
      await own.run(["false"]);
      const hits = await hitsOf(own, "disk");
      assert.equal(hits.length, times);
      await own.files.remove("/home/user/fill");
      // Looked at when a program fails: that it has room again is seen then.
      await own.run(["false"]);
    }
  });

  check("files beyond their number are ENOSPC, told, and the sandbox stays usable", async ({ fresh }) => {
    const own = await fresh({ diskInodes: 200, diskBytes: 64 * MIB });
    const code = `
import errno,json,sys
made=0
try:
    for i in range(1000): open(f"/home/user/f{i}","w").close(); made+=1
except OSError as e: print(json.dumps([made,errno.errorcode[e.errno]])); sys.exit(1)
print(json.dumps([made,""]))`;
    const result = await own.run(["python3", "-c", code]);
    const [made, why] = JSON.parse(result.stdout.toString()) as [number, string];
    assert.equal(why, "ENOSPC");
    assert.ok(made > 100 && made <= 200, `${made} files were possible with 200`);
    assert.equal((await hitsOf(own, "disk")).length, 1);
    await own.files.remove("/home/user/f0");
    await own.files.write("/home/user/again", "x");
  });

  check("at the output limit a program is killed, and what it wrote until then is kept", async ({ fresh }) => {
    const own = await fresh({ outputMaxBytes: 100_000 });
    const running = await own.start(["sh", "-c", "cat /dev/zero & cat /dev/zero >&2 & wait"]);
    const lengthOf = async (lane: AsyncIterable<Buffer>): Promise<number> => {
      let bytes = 0;
      for await (const chunk of lane) bytes += chunk.length;
      return bytes;
    };
    const lanes = Promise.all([lengthOf(running.stdout), lengthOf(running.stderr)]);
    const error = await fails("OUTPUT_LIMIT", () => within("the kill", 30_000, running.exit));
    assert.equal(error.exitCode, 123);
    const [out, err] = await within("both lanes' end", 30_000, lanes);
    assert.equal(out + err, 100_000);
    const [hit] = await hitsOf(own, "output");
    assert.equal(hit?.value, 100_000);
    assert.equal(hit.killed?.what, "process");
    await eventually("both cats are gone", async () =>
      (await own.processes()).every((p) => !p.command.includes("zero")),
    );
    // Of each program by itself: another one has it all again.
    assert.equal((await own.run(["head", "-c", "100000", "/dev/zero"])).stdout.length, 100_000);
    await fails("OUTPUT_LIMIT", () => own.run(["head", "-c", "100001", "/dev/zero"]));
  });

  check("a sandbox without output, input or calls is ended, typed", async ({ fresh }) => {
    const own = await fresh({ idleTimeoutMs: 1_000 });
    const error = await fails("IDLE_TIMEOUT", () => within("the end", 30_000, own.run(["sleep", "300"])));
    assert.equal(error.exitCode, 124);
    await within("gone", 30_000, own.gone);
    const [hit] = await hitsOf(own, "idle");
    assert.deepEqual([hit?.value, hit?.killed], [1_000, { what: "sandbox" }]);
  });

  check("events come as they happen, from the first on, and end with the sandbox", async ({ fresh }) => {
    const own = await fresh({ timeoutMs: 3_000, outputMaxBytes: 10 });
    const early = collect(own);
    await fails(["OUTPUT_LIMIT", "TIMEOUT", "SANDBOX_GONE"], () => own.run(["seq", "100"]));
    const late = collect(own);
    await fails(["TIMEOUT", "SANDBOX_GONE"], () => own.run(["sleep", "60"]));
    const [first, second] = await within("the end of both", 30_000, Promise.all([early, late]));
    assert.deepEqual(first, second);
    assert.equal(first.at(-1), "timeout");
  });

  check("descriptors of a program are as many as asked for, and it cannot have more", async ({ fresh, target }) => {
    const own = await fresh({ openFiles: 64 });
    const code = `
import os,json,resource as r
had=list(r.getrlimit(r.RLIMIT_NOFILE)); raised=True
try: r.setrlimit(r.RLIMIT_NOFILE,(65,65))
except (OSError,ValueError): raised=False
fds=[]
try:
    while len(fds)<200: fds.append(os.dup(1))
except OSError: pass
print(json.dumps([had,raised,len(fds)]))`;
    const users = target.traits.level === "microvm" ? (["user"] as const) : (["user", "root"] as const);
    for (const user of users) {
      const [had, raised, opened] = await probe<[number[], boolean, number]>(own, code, user);
      assert.deepEqual(had, [64, 64]);
      assert.equal(raised, false, `${user} could raise it`);
      assert.ok(opened < 64, `${opened} descriptors were possible with 64`);
    }
    await fails("FILE_PERMISSION", () => own.run(["true"], { rlimits: { nofile: { soft: 10, hard: 65 } } }));
  });
});

async function collect(box: Box): Promise<readonly LimitName[]> {
  const seen: LimitName[] = [];
  for await (const { limit } of box.events()) seen.push(limit);
  return seen;
}
