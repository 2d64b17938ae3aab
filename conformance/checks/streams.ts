import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { eventually, fails, theme, within } from "../check.ts";

const MIB = 1024 * 1024;
const BIG_BYTES = 100 * MIB;

/** `total` bytes that do not repeat every power of two, with their digest; made in pieces so that none lies in memory whole. */
function pieces(total: number): { stream: Readable; digest: Promise<string> } {
  const hash = createHash("sha256");
  const block = randomBytes(MIB - 7);
  let settle: (digest: string) => void;
  const digest = new Promise<string>((resolve) => (settle = resolve));
  function* generate(): Generator<Buffer> {
    for (let sent = 0; sent < total;) {
      const piece = block.subarray(0, Math.min(block.length, total - sent));
      hash.update(piece);
      sent += piece.length;
      yield piece;
    }
    settle(hash.digest("hex"));
  }
  return { stream: Readable.from(generate(), { objectMode: false }), digest };
}

async function collect(stream: Readable): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of stream) parts.push(part as Buffer);
  return Buffer.concat(parts);
}

export const streamChecks = theme("streams", "function", (check) => {
  check("standard output and error stay apart", async ({ box }) => {
    const result = await box.run(["sh", "-c", "for i in 1 2 3; do echo out$i; echo err$i >&2; done"]);
    assert.equal(result.stdout.toString(), "out1\nout2\nout3\n");
    assert.equal(result.stderr.toString(), "err1\nerr2\nerr3\n");
  });

  check("output is bytes, not text", async ({ box }) => {
    const every = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    const result = await box.run(["cat"], { input: every });
    assert.deepEqual(result.stdout, every);
  });

  check("standard input is at its end when none is given", async ({ box }) => {
    const result = await within("cat without input", 10_000, box.run(["cat"]));
    assert.deepEqual([result.code, result.stdout.length], [0, 0]);
  });

  check("closing standard input ends the reader", async ({ box }) => {
    const running = await box.start(["cat"], { stdin: true });
    running.stdin.write("one");
    const [first] = (await once(running.stdout, "data")) as [Buffer];
    assert.equal(first.toString(), "one");
    running.stdin.end();
    assert.deepEqual(await within("cat after end", 10_000, running.exit), { code: 0, signal: null });
  });

  check("first output arrives while the program runs on", async ({ box }) => {
    const running = await box.start(["sh", "-c", "echo first; sleep 30"]);
    const [first] = (await within("first line", 5_000, once(running.stdout, "data"))) as [Buffer];
    assert.equal(first.toString(), "first\n");
    await running.signal("SIGKILL", true);
    await running.exit;
  });

  check(
    "100 MiB through standard input arrive whole",
    async ({ box }) => {
      const running = await box.start(["sha256sum"], { stdin: true });
      const sent = pieces(BIG_BYTES);
      const [, output] = await Promise.all([pipeline(sent.stream, running.stdin), collect(running.stdout)]);
      assert.equal(output.toString().slice(0, 64), await sent.digest);
    },
    { timeoutMs: 180_000 },
  );

  check(
    "100 MiB through `cat` and back with the same checksum",
    async ({ box }) => {
      const running = await box.start(["cat"], { stdin: true });
      const sent = pieces(BIG_BYTES);
      const back = createHash("sha256");
      let bytes = 0;
      const reading = (async () => {
        for await (const part of running.stdout) {
          back.update(part as Buffer);
          bytes += (part as Buffer).length;
        }
      })();
      await Promise.all([pipeline(sent.stream, running.stdin), reading]);
      assert.equal(bytes, BIG_BYTES);
      assert.equal(back.digest("hex"), await sent.digest);
      assert.deepEqual(await running.exit, { code: 0, signal: null });
    },
    { timeoutMs: 180_000 },
  );

  check("20 MiB of standard error while output is silent", async ({ box }) => {
    const running = await box.start(["sh", "-c", `head -c ${20 * MIB} /dev/zero >&2`]);
    const [out, err] = await Promise.all([collect(running.stdout), collect(running.stderr)]);
    assert.deepEqual([out.length, err.length], [0, 20 * MIB]);
  });

  check("a slow reader stalls its own program and nobody else", async ({ box, scratch }) => {
    const progress = `${scratch}/progress`;
    const code = `import os
n=0
while True:
    n+=os.write(1,b'x'*65536)
    open('${progress}','w').write(str(n))`;
    const slow = await box.start(["python3", "-c", code]);
    const written = async (): Promise<number> => Number((await box.files.read(progress)).toString() || "0");
    await eventually("the writer stalls", async () => {
      const before = await written().catch(() => 0);
      await sleep(300);
      return before > 0 && (await written()) === before;
    });
    const stalledAt = await written();
    assert.ok(stalledAt < 8 * MIB, `the writer went on for ${stalledAt} bytes with nobody reading`);
    const quick = await within("another program", 5_000, box.run(["sh", "-c", "head -c 5000000 /dev/zero | wc -c"]));
    assert.equal(quick.stdout.toString().trim(), "5000000");
    const other = await within("other output", 10_000, box.run(["head", "-c", "5000000", "/dev/zero"]));
    assert.equal(other.stdout.length, 5_000_000);
    slow.stdout.resume();
    await eventually("the writer goes on once it is read", async () => (await written()) > stalledAt);
    await slow.signal("SIGKILL", true);
    await slow.exit;
  });

  check("a program that reads no input does not stop the others", async ({ box }) => {
    const deaf = await box.start(["sleep", "60"], { stdin: true });
    deaf.stdin.on("error", () => undefined);
    for (let i = 0; i < 64; i++) deaf.stdin.write(Buffer.alloc(65_536));
    const other = await within("another program", 5_000, box.run(["cat"], { input: "hello" }));
    assert.equal(other.stdout.toString(), "hello");
    await deaf.signal("SIGKILL", true);
    await deaf.exit;
  });

  check("output beyond the limit asked for ends the program with a typed error", async ({ box }) => {
    await fails("OUTPUT_LIMIT", () => box.run(["head", "-c", "3000000", "/dev/zero"], { maxOutputBytes: 1_000_000 }));
    const within_ = await box.run(["head", "-c", "1000000", "/dev/zero"], { maxOutputBytes: 1_000_000 });
    assert.equal(within_.stdout.length, 1_000_000);
  });

  check("a reader that goes away ends the program by SIGPIPE or error, not the sandbox", async ({ box }) => {
    const running = await box.start(["sh", "-c", "yes"]);
    await once(running.stdout, "data");
    running.stdout.destroy();
    await running.signal("SIGKILL", true).catch(() => undefined);
    await within("program whose reader left", 10_000, running.exit);
    await box.ping();
  });

  check("output that a background child writes after the exit is not lost before its end", async ({ box }) => {
    const drainGraceMs = 30_000;
    const result = await box.run(["sh", "-c", "(sleep 0.3; echo late) & echo early"], { drainGraceMs });
    assert.equal(result.stdout.toString(), "early\nlate\n");
  });
});
