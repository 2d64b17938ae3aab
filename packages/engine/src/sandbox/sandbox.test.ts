import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { agentPath } from "../testing/config.ts";
import { type RealAgent, startRealAgent } from "../testing/real-agent.ts";
import type { Sandbox } from "./sandbox.ts";

if (agentPath === null)
  console.error("SKIPPED: the agent is not built, nothing real is tested (cargo build --release -p bulkhead-agent)");

const PATIENT = { timeout: 4_000 };

// Needs the agent's binary, which cargo makes; the line above says loudly when it is not there.
describe.skipIf(agentPath === null)("a Sandbox over the real agent", () => {
  let agent: RealAgent;
  let box: Sandbox;
  const dir = mkdtempSync(join(tmpdir(), "bulkhead-sandbox-"));
  const at = (name: string): string => join(dir, name);

  beforeAll(async () => {
    agent = await startRealAgent({ over: "fifos" });
    box = agent.box;
  });
  afterAll(async () => {
    await agent?.box.kill();
    rmSync(dir, { recursive: true, force: true });
  });

  describe("exec", () => {
    test("exit codes and both outputs are results", async () => {
      const result = await box.exec("echo out; echo err >&2; exit 7");
      expect(result).toMatchObject({ exitCode: 7, signal: null, ok: false, text: "out\n", errorText: "err\n" });
      expect(result.pid).toBeGreaterThan(1);
      await expect(box.exec("echo no >&2; exit 7", { check: true })).rejects.toMatchObject({
        code: "COMMAND_FAILED",
        details: { exitCode: 7, stderr: "no\n" },
      });
    });

    test("a signal is named", async () => {
      expect(await box.exec("kill -TERM $$")).toMatchObject({ exitCode: 143, signal: "SIGTERM" });
    });

    test("environment, directory, input", async () => {
      const result = await box.exec('pwd; echo "$A-$PATH"; cat', { env: { A: "b c" }, cwd: "/usr", stdin: "given" });
      expect(result.text).toMatch(/^\/usr\nb c-\/.*\ngiven$/);
    });

    test("limits", async () => {
      expect((await box.exec("ulimit -n", { rlimits: { nofile: 123 } })).text).toBe("123\n");
    });

    test("what cannot be started says why", async () => {
      await expect(box.exec(["/no/such"])).rejects.toMatchObject({ code: "COMMAND_NOT_FOUND" });
      await expect(box.exec(["/etc/passwd"])).rejects.toMatchObject({ code: "COMMAND_NOT_EXECUTABLE" });
      await expect(box.exec("true", { user: "nobody-such" })).rejects.toMatchObject({ code: "USER_NOT_FOUND" });
      await expect(box.exec("true", { cwd: "/no/such" })).rejects.toMatchObject({ code: "WORKDIR_NOT_FOUND" });
    });

    test("100 MiB in and back, the same bytes", async () => {
      const piece = randomBytes(1024 * 1024);
      const sent = createHash("sha256");
      async function* source(): AsyncGenerator<Buffer> {
        for (let i = 0; i < 100; i += 1) {
          sent.update(piece);
          yield piece;
        }
      }
      const execution = box.exec(["cat"], { stdin: Readable.from(source()) });
      const received = createHash("sha256");
      let bytes = 0;
      for await (const chunk of execution.stdout) {
        bytes += (chunk as Buffer).length;
        received.update(chunk as Buffer);
      }
      expect(bytes).toBe(100 * 1024 * 1024);
      expect(received.digest("hex")).toBe(sent.digest("hex"));
      expect((await execution).exitCode).toBe(0);
    }, 60_000);

    test("both lanes as they come", async () => {
      const lanes: string[] = [];
      for await (const { lane, data } of box.exec("echo a; sleep 0.05; echo b >&2; sleep 0.05; echo c"))
        lanes.push(`${lane} ${data.toString().trim()}`);
      expect(lanes).toEqual(["stdout a", "stderr b", "stdout c"]);
    });

    test("a pipe for input, ended by us", async () => {
      const execution = box.exec(["cat"], { stdin: true });
      execution.stdin.write("one ");
      execution.stdin.end("two");
      expect((await execution).text).toBe("one two");
    });

    test("input nobody reads is no error", async () => {
      expect((await box.exec("exec true", { stdin: Buffer.alloc(4 * 1024 * 1024) })).exitCode).toBe(0);
    });

    test("more at once than the wire has streams: each one ends or is refused, and the rest go on", async () => {
      const many = Array.from({ length: 1_030 }, () => box.files.exists("/etc/passwd"));
      const settled = await Promise.allSettled(many);
      const refused = settled.filter((one) => one.status === "rejected");
      expect(refused.length).toBeGreaterThanOrEqual(6);
      for (const { reason } of refused as PromiseRejectedResult[])
        expect(reason).toMatchObject({ code: "STREAM_LIMIT" });
      expect(await box.files.exists("/etc/passwd")).toBe(true);
    });

    test("50 at once", async () => {
      const results = await Promise.all(Array.from({ length: 50 }, (_, i) => box.exec(`echo ${i}`)));
      expect(results.map((result) => result.text.trim())).toEqual(Array.from({ length: 50 }, (_, i) => String(i)));
    });

    test("a timeout and an abort kill the whole group", async () => {
      const file = at("alive");
      const command = `(sleep 0.5; echo x > ${file}) & wait`;
      await expect(box.exec(command, { timeoutMs: 100 })).rejects.toMatchObject({ code: "TIMEOUT" });
      const controller = new AbortController();
      const aborted = box.exec(command, { signal: controller.signal });
      await aborted.pid;
      controller.abort(new Error("enough"));
      await expect(aborted).rejects.toMatchObject({ code: "ABORTED", cause: { message: "enough" } });
      await sleep(700);
      expect(await box.files.exists(file)).toBe(false);
    });

    test("kill before and after the start", async () => {
      const early = box.exec("sleep 30");
      early.kill();
      expect(await early).toMatchObject({ signal: "SIGKILL" });
      // Not through a shell: it may swallow a SIGINT that comes while it starts.
      const late = box.exec(["sleep", "30"]);
      await late.pid;
      late.kill("SIGINT");
      expect((await late.exit).signal).toBe("SIGINT");
    });

    test("a background process that holds the output: the result comes, the process goes on", async () => {
      const result = await box.exec("sleep 600 & echo $!", { drainGraceMs: 100 });
      const pid = Number(result.text);
      expect((await box.processes()).find((one) => one.pid === pid)?.command).toContain("sleep");
      await box.signal(pid, "SIGKILL");
    });

    test("too much output is refused, and the process killed", async () => {
      const flood = box.exec("yes", { maxOutputBytes: 1_000_000 });
      const pid = await flood.pid;
      await expect(flood).rejects.toMatchObject({ code: "OUTPUT_LIMIT" });
      await expect
        .poll(async () => (await box.processes()).some((one) => one.pid === pid && one.state !== "Z"), PATIENT)
        .toBe(false);
    });

    test("a flood nobody reads stalls inside, not in host memory", async () => {
      const before = process.memoryUsage();
      const floods = Array.from({ length: 20 }, () => box.exec("yes"));
      await Promise.all(floods.map((flood) => flood.pid));
      await sleep(500);
      const after = process.memoryUsage();
      expect(agent.channel.buffered).toBeLessThanOrEqual(20 * 2 * 262_144);
      expect(after.arrayBuffers - before.arrayBuffers).toBeLessThan(20 * 3 * 262_144);
      expect((await box.exec("echo still here")).text).toBe("still here\n");
      for (const flood of floods) {
        flood.kill();
        flood.stdout.destroy();
      }
      const ends = await Promise.all(floods);
      expect(ends.every((end) => end.signal === "SIGKILL")).toBe(true);
    });
  });

  describe("processes", () => {
    test("listed, signalled, connected to", async () => {
      const execution = box.exec("echo one; read x; echo two $x", { stdin: true });
      const pid = await execution.pid;
      expect((await box.processes()).find((one) => one.pid === pid)).toMatchObject({ pid, managed: true });
      execution.detach();
      await expect(execution).rejects.toMatchObject({ code: "ABORTED" });
      const again = box.connect(pid);
      expect(await again.pid).toBe(pid);
      again.stdin.end("more\n");
      expect((await again).text).toContain("two more\n");
      const sleeper = box.exec(["sleep", "30"]);
      await box.signal(await sleeper.pid, "TERM");
      expect(await sleeper).toMatchObject({ signal: "SIGTERM" });
    });

    test("a pid that is none", async () => {
      await expect(box.signal(4_194_000, "SIGTERM")).rejects.toMatchObject({ code: "PROCESS_NOT_FOUND" });
      await expect(box.connect(4_194_000)).rejects.toMatchObject({ code: "PROCESS_NOT_FOUND" });
    });

    test("usage and ping", async () => {
      const usage = await box.usage();
      expect(usage.processes).toBeGreaterThan(0);
      expect(usage.memoryTotalBytes).toBeGreaterThan(usage.memoryUsedBytes);
      expect(await box.ping()).toBeGreaterThan(0);
    });
  });

  test("pty: a terminal of the size asked for, resized, interrupted, ended", async () => {
    const pty = await box.pty({ cmd: ["/bin/sh", "-i"], rows: 30, cols: 100, env: { PS1: "$ " } });
    let seen = "";
    pty.output.on("data", (chunk: Buffer) => (seen += chunk.toString()));
    pty.input.write("stty size; tty\n");
    await expect.poll(() => seen, PATIENT).toMatch(/30 100\r\n\/dev\/pts\/\d+/);
    pty.resize(40, 90);
    pty.input.write("stty size\n");
    await expect.poll(() => seen, PATIENT).toContain("40 90");
    pty.input.write("sleep 613\n");
    const sleeps = async (): Promise<boolean> => (await box.processes()).some(({ command }) => command.includes("613"));
    await expect.poll(sleeps, PATIENT).toBe(true);
    pty.input.write("\u0003");
    await expect.poll(sleeps, PATIENT).toBe(false);
    pty.input.write("echo a$((1+1))c\n");
    await expect.poll(() => seen, PATIENT).toContain("a2c");
    pty.input.write("exit 5\n");
    expect((await pty.exit).exitCode).toBe(5);
  });

  describe("files", () => {
    test("written, read, appended, listed, moved, removed", async () => {
      const content = randomBytes(3_000_000);
      expect(await box.files.write(at("a/b/f"), content, { parents: true, mode: 0o600 })).toEqual({
        bytes: content.length,
      });
      expect((await box.files.read(at("a/b/f"))).equals(content)).toBe(true);
      expect((await box.files.read(at("a/b/f"), { offset: 10, length: 5 })).equals(content.subarray(10, 15))).toBe(
        true,
      );
      expect(await box.files.stat(at("a/b/f"))).toMatchObject({ kind: "file", size: content.length, mode: 0o600 });
      await box.files.write(at("a/t"), "one");
      await box.files.write(at("a/t"), Readable.from(["two", Buffer.from("three")]), { append: true });
      expect(await box.files.readText(at("a/t"))).toBe("onetwothree");
      await box.files.symlink("t", at("a/link"));
      expect(await box.files.stat(at("a/link"), { follow: false })).toMatchObject({ kind: "symlink", target: "t" });
      const names = (await box.files.list(at("a"), { depth: 2 }))
        .map((entry) => entry.path.slice(entry.path.lastIndexOf("/") + 1))
        .sort();
      expect(names).toEqual(["b", "f", "link", "t"]);
      await box.files.move(at("a/t"), at("a/u"));
      await expect(box.files.remove(at("a"))).rejects.toMatchObject({ code: "FILE_FAILED" });
      await box.files.remove(at("a"), { recursive: true });
      expect(await box.files.exists(at("a"))).toBe(false);
    });

    test("exclusive and atomic", async () => {
      await box.files.write(at("x"), "old");
      await expect(box.files.write(at("x"), "new", { exclusive: true })).rejects.toMatchObject({ code: "FILE_EXISTS" });
      const broken = async function* (): AsyncGenerator<string> {
        yield "half";
        throw new Error("source");
      };
      await expect(box.files.write(at("x"), broken(), { atomic: true })).rejects.toThrow("source");
      expect(await box.files.readText(at("x"))).toBe("old");
      await box.files.write(at("x"), "new", { atomic: true });
      expect(await box.files.readText(at("x"))).toBe("new");
      expect(
        (await box.files.list(dir)).filter((entry) => entry.path.endsWith("x") || entry.path.includes(".x")).length,
      ).toBe(1);
    });

    test("names that are not UTF-8 go round", async () => {
      const path = Buffer.concat([Buffer.from(at("")), Buffer.from([0x2f, 0xff, 0xfe])]);
      await box.files.write(path, "x");
      const found = (await box.files.list(dir)).find((entry) => entry.path.includes("\ufffd"));
      expect(await box.files.readText(found?.pathBytes ?? "")).toBe("x");
      await box.files.remove(path);
    });

    test("mkdir, chmod, chown", async () => {
      await box.files.mkdir(at("d"), { mode: 0o700 });
      await expect(box.files.mkdir(at("d"))).rejects.toMatchObject({ code: "FILE_EXISTS" });
      await box.files.mkdir(at("d/e/f"), { parents: true });
      await box.files.chmod(at("d"), 0o751);
      expect((await box.files.stat(at("d"))).mode).toBe(0o751);
      if (process.getuid?.() === 0) {
        await box.files.chown(at("d"), { owner: 1234, group: "daemon" });
        expect(await box.files.stat(at("d"))).toMatchObject({ uid: 1234, group: "daemon" });
      }
    });

    test("failures are typed", async () => {
      await expect(box.files.read(at("none"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
      await expect(box.files.read("/etc")).rejects.toMatchObject({ code: "FILE_IS_A_DIRECTORY" });
      await expect(box.files.list("/etc/passwd")).rejects.toMatchObject({ code: "FILE_NOT_A_DIRECTORY" });
      await expect(box.files.readStream(at("none"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
      await expect(box.files.read("/dev/zero", { maxBytes: 100_000 })).rejects.toMatchObject({ code: "SPEC_INVALID" });
      await box.files.write(at("big"), Buffer.alloc(200_000));
      await expect(box.files.read(at("big"), { maxBytes: 100_000 })).rejects.toMatchObject({ code: "OUTPUT_LIMIT" });
    });

    test("as a stream, and left early", async () => {
      await box.files.write(at("long"), Buffer.alloc(5_000_000, 1));
      let bytes = 0;
      for await (const piece of await box.files.readStream(at("long"))) {
        bytes += (piece as Buffer).length;
        if (bytes > 1_000_000) break;
      }
      await expect.poll(() => agent.channel.streams, PATIENT).toBe(0);
    });

    test("watched, recursively", async () => {
      await box.files.mkdir(at("w/deep"), { parents: true });
      const watcher = await box.files.watch(at("w"), { recursive: true });
      await box.files.write(at("w/deep/f"), "x");
      const kinds: string[] = [];
      for await (const event of watcher) {
        kinds.push(event.kind);
        expect(event.path).toContain("deep/f");
        if (event.kind === "write") break;
      }
      expect(kinds).toContain("create");
      await expect.poll(() => agent.channel.streams, PATIENT).toBe(0);
    });

    test("a closed watch ends, an aborted one throws", async () => {
      const watcher = await box.files.watch(dir);
      setTimeout(() => watcher.close(), 10);
      for await (const event of watcher) expect(event).toBeNull();
      const controller = new AbortController();
      const aborted = await box.files.watch(dir, { signal: controller.signal });
      setTimeout(() => controller.abort(), 10);
      await expect(Array.fromAsync(aborted)).rejects.toMatchObject({ code: "ABORTED" });
    });
  });

  describe("dial", () => {
    test("both ways, half closed, over TCP and Unix sockets", async () => {
      const server = createServer({ allowHalfOpen: true }, (socket) => {
        let got = "";
        socket.on("data", (chunk: Buffer) => (got += chunk.toString()));
        socket.on("end", () => socket.end(`got ${got.length}`));
      });
      for (const where of ["tcp", "unix"] as const) {
        const path = at("socket");
        await new Promise<void>((resolve) =>
          where === "tcp" ? server.listen(0, "127.0.0.1", resolve) : server.listen(path, resolve),
        );
        const address = server.address();
        const connection = await box.dial(
          typeof address === "object" && address !== null ? address.port : { unix: path },
        );
        connection.end(Buffer.alloc(1_000_000, 0x61));
        expect((await Array.fromAsync(connection)).join("")).toBe("got 1000000");
        await new Promise((resolve) => server.close(resolve));
        await expect(
          box.dial(typeof address === "object" && address !== null ? address.port : { unix: path }),
        ).rejects.toMatchObject({
          code: where === "tcp" ? "PORT_CLOSED" : expect.stringMatching(/PORT_CLOSED|FILE_NOT_FOUND/),
        });
      }
    });
  });

  describe("publish", () => {
    const answers = (text: string): Server =>
      createServer({ allowHalfOpen: true }, (socket) => socket.on("end", () => socket.end(text)).resume());

    test("a port of the host leads to one inside, for as long as it is published", async () => {
      const server = answers("inside").listen(0, "127.0.0.1");
      await once(server, "listening");
      const { port } = server.address() as AddressInfo;
      const url = new URL(await box.url(port));
      expect(url.hostname).toBe("127.0.0.1");
      expect(await box.url(port)).toBe(url.origin);
      const talk = async (to: number): Promise<string> => {
        const socket = connect({ port: to, host: "127.0.0.1", allowHalfOpen: true });
        socket.end("x");
        return (await Array.fromAsync(socket)).join("");
      };
      expect(await Promise.all([1, 2, 3].map(() => talk(Number(url.port))))).toEqual(["inside", "inside", "inside"]);
      await using other = await box.publish(port, { hostAddress: "127.0.0.2" });
      await expect(box.publish(port, { hostAddress: "127.0.0.2", hostPort: other.hostPort })).rejects.toMatchObject({
        code: "HOST_RESOURCE",
      });
      server.close();
      await once(server, "close");
      await expect(talk(Number(url.port))).rejects.toMatchObject({ code: "ECONNRESET" });
      const ended = await box.publish(port);
      await ended.close();
      await expect(talk(ended.hostPort)).rejects.toMatchObject({ code: "ECONNREFUSED" });
    });

    test("what is no address or port is refused", async () => {
      await expect(box.publish(0)).rejects.toMatchObject({ code: "SPEC_INVALID" });
      await expect(box.publish(1, { hostAddress: "localhost" })).rejects.toMatchObject({ code: "SPEC_INVALID" });
    });
  });

  test("no stream is left when all is done", async () => {
    await expect.poll(() => agent.channel.streams, PATIENT).toBe(0);
  });
});
