import assert from "node:assert/strict";
import { fails, theme, within } from "../check.ts";
import { PATIENCE } from "../patience.ts";
import { cgroupCpuSeconds } from "../host.ts";
import { probe } from "./boundary.ts";

const MIB = 1024 * 1024;

export const limitChecks = theme("limits", "host", (check) => {
  check(
    "at the process limit fork fails with EAGAIN, and the sandbox stays usable",
    async ({ fresh }) => {
      const own = await fresh({ pids: 60 });
      const code = `
import os,json,errno,time,signal
children=[]; why=None
for _ in range(5000):
    try: pid=os.fork()
    except OSError as e: why=errno.errorcode[e.errno]; break
    if pid==0:
        signal.pause(); os._exit(0)
    children.append(pid)
for c in children: os.kill(c,9)
for c in children: os.waitpid(c,0)
print(json.dumps([why,len(children)]))`;
      const [why, count] = await within("the fork bomb", 60_000, probe<[string, number]>(own, code, "user"));
      assert.equal(why, "EAGAIN");
      assert.ok(count >= 30 && count <= 60 + 16, `${count} children were possible with a limit of 60`);
      assert.equal((await own.run(["echo", "usable"])).stdout.toString(), "usable\n");
    },
    {
      timeoutMs: 120_000,
      notFor: (t) => (t.traits.level === "gvisor" ? "the limit counts host threads there; see the next check" : null),
    },
  );

  check(
    "a process bomb stays within its sandbox",
    async ({ fresh, box }) => {
      const own = await fresh({ pids: 200, memoryBytes: 512 * MIB });
      const bomb = own.run(["python3", "-c", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"], {
        timeoutMs: 5_000,
      });
      const ended = bomb.then(
        () => "ended",
        (error: Error & { code?: string }) => error.code ?? String(error),
      );
      for (let i = 0; i < 5; i++)
        assert.equal((await within("a neighbour", 20_000, box.run(["echo", "hi"]))).stdout.toString(), "hi\n");
      assert.ok(
        ["TIMEOUT", "SANDBOX_GONE", "CHANNEL_CLOSED", "ended"].includes(await within("the bomb's end", 30_000, ended)),
      );
      await within("kill", 20_000, own.kill());
    },
    { timeoutMs: 120_000 },
  );

  check(
    "beyond the memory limit the process dies, not the sandbox",
    async ({ fresh }) => {
      const own = await fresh({ memoryBytes: 128 * MIB });
      const result = await own.run(["python3", "-c", "b=bytearray()\nwhile True: b+=b'x'*1048576"]);
      assert.notEqual(result.code, 0);
      assert.ok(
        result.signal === "SIGKILL" || /MemoryError/.test(result.stderr.toString()),
        `ended with ${result.code} ${result.signal}`,
      );
      assert.equal((await own.run(["echo", "usable"])).stdout.toString(), "usable\n");
    },
    { notFor: (t) => (t.traits.level === "gvisor" ? "the Sentry itself is charged; see the next check" : null) },
  );

  check("beyond the memory limit nothing outside is harmed, and the end is typed", async ({ fresh, box }) => {
    const own = await fresh({ memoryBytes: 256 * MIB });
    const eaten = own.run(["python3", "-c", "b=bytearray()\nwhile True: b+=b'x'*1048576"]).then(
      (result) => (result.code === 0 ? "succeeded" : "died"),
      (error: Error & { code?: string }) => error.code ?? String(error),
    );
    assert.ok(["died", "SANDBOX_GONE", "CHANNEL_CLOSED"].includes(await within("the end", 50_000, eaten)), await eaten);
    await box.ping();
  });

  check("a full disk is ENOSPC, and the sandbox stays usable", async ({ fresh }) => {
    const own = await fresh({ diskBytes: 32 * MIB });
    const result = await own.run(["sh", "-c", "head -c 100000000 /dev/zero > /home/user/fill"]);
    assert.notEqual(result.code, 0);
    assert.match(result.stderr.toString(), /No space left/);
    const size = Number((await own.run(["stat", "-c", "%s", "/home/user/fill"])).stdout.toString());
    assert.ok(size <= 32 * MIB, `${size} bytes fitted into 32 MiB`);
    assert.ok(size > 16 * MIB, `only ${size} bytes fitted into 32 MiB`);
    await fails("FILE_NO_SPACE", () => own.files.write("/home/user/more", Buffer.alloc(4 * MIB)));
    await own.files.remove("/home/user/fill");
    await own.files.write("/home/user/more", Buffer.alloc(4 * MIB));
    assert.equal((await own.files.read("/home/user/more")).length, 4 * MIB);
  });

  // gVisor's own /tmp has the same size again and counts as memory; its plan says so.
  check("every writable place counts against the disk limit", async ({ fresh, target }) => {
    const own = await fresh({ diskBytes: 32 * MIB, memoryBytes: 512 * MIB });
    const places = target.traits.level === "gvisor" ? "" : "'/tmp',";
    const code = `
import os,json
total=0
for p in [${places}'/var/tmp','/home/user','/root','/run','/etc','/opt','/mnt','/srv','/usr/local']:
    try:
        f=open(p+'/fill','wb',0); b=b'x'*1048576
        while total<200*1048576: total+=f.write(b)
    except OSError: pass
print(json.dumps(total))`;
    const total = await probe<number>(own, code, "root");
    assert.ok(total <= 33 * MIB, `${total} bytes fitted into 32 MiB`);
  });

  check("the sandbox's own /tmp is bounded too", async ({ fresh }) => {
    const own = await fresh({ diskBytes: 32 * MIB, memoryBytes: 512 * MIB });
    const result = await own.run(["sh", "-c", "head -c 100000000 /dev/zero > /tmp/fill; stat -c %s /tmp/fill"]);
    assert.ok(
      Number(result.stdout.toString()) <= 32 * MIB,
      `${result.stdout.toString().trim()} bytes fitted into /tmp`,
    );
    assert.equal((await own.run(["echo", "usable"])).stdout.toString(), "usable\n");
  });

  check("cpu time is held to the quota", async ({ fresh }) => {
    const own = await fresh({ cpus: 0.5 });
    const code = "import time\ne=time.monotonic()+3\nwhile time.monotonic()<e: pass";
    const spun = own.run(["python3", "-c", code]);
    // Counted by the host: another kernel's own account of time is off by seconds when the machine stands still.
    const [before, from] = [await cgroupCpuSeconds(own.id), performance.now()];
    await spun;
    const used = (await cgroupCpuSeconds(own.id)) - before;
    const share = used / ((performance.now() - from) / 1000);
    assert.ok(share > 0 && share < 0.75, `used ${share.toFixed(2)} of a processor with a quota of a half`);
  });

  check("the sandbox's timeout ends it with a typed error", async ({ fresh }) => {
    const own = await fresh({ timeoutMs: 1_500 });
    const started = performance.now();
    await fails(["TIMEOUT", "SANDBOX_GONE"], () => own.run(["sleep", "60"]));
    assert.ok(performance.now() - started < 10_000 * PATIENCE);
    await within("gone", 5_000, own.gone);
    await fails(["TIMEOUT", "SANDBOX_GONE", "CHANNEL_CLOSED"], () => own.run(["true"]));
  });
});
