import { execFileSync } from "node:child_process";
import { chmodSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { BulkheadError, type Plan } from "@bulkhead/contract";
import { Sandbox } from "../sandbox/sandbox.ts";
import { agentPath } from "../testing/config.ts";
import { type RealAgent, startRealAgent } from "../testing/real-agent.ts";
import { findSandbox, listSandboxes } from "./find.ts";
import { type Frame, frame, frames, GENERATION, jsonOf, Kind } from "./frames.ts";
import { claimName } from "./names.ts";
import { ControlServer } from "./server.ts";

if (agentPath === null)
  console.error("SKIPPED: the agent is not built, nothing real is tested (cargo build --release -p bulkhead-agent)");
const lacking = agentPath === null || process.getuid?.() !== 0;
if (process.getuid?.() !== 0) console.error("SKIPPED: control sockets are root's, and this is not root");

const PLAN = { level: "container", driver: "none", image: { reference: "base" } } as Plan;
const ENGINE = "e0123456789abcdef";
const ID = "s0123456789abcdef";
const LIMITS = { maxConnections: 40, requestWithinMs: 300 };
const request = (fields: object): Buffer =>
  frame(Kind.request, Buffer.from(JSON.stringify({ generation: GENERATION, ...fields })));

async function failure(work: Promise<unknown>): Promise<BulkheadError> {
  const error = await work.then(
    () => new Error("it succeeded"),
    (cause: unknown) => cause,
  );
  if (error instanceof BulkheadError) return error;
  throw error;
}

// Needs the agent's binary, which cargo makes, and root; the lines above say loudly what is not there.
describe.skipIf(lacking)("sandboxes by their engine's control socket", { timeout: 60_000 }, () => {
  const run = mkdtempSync(join(tmpdir(), "bulkhead-control-"));
  const at = (name: string): string => join(run, "files", name);
  const socketPath = join(run, ENGINE, "control/socket");
  let agent: RealAgent;
  let server: ControlServer;
  const find = (word: string) => findSandbox(word, { run });

  beforeAll(async () => {
    mkdirSync(join(run, ENGINE));
    mkdirSync(join(run, "files"));
    agent = await startRealAgent({ over: "fifos" });
    const parts = { plan: PLAN, channel: agent.channel, ended: agent.box.ended, release: () => agent.box.kill() };
    const boxes = [new Sandbox({ ...parts, id: ID, name: "web" }), new Sandbox({ ...parts, id: "s0123000000000000" })];
    server = await ControlServer.open(run, ENGINE, new Set(boxes), LIMITS);
  });
  afterAll(async () => {
    await server?.[Symbol.asyncDispose]();
    await agent?.box.kill();
    rmSync(run, { recursive: true, force: true });
  });

  /** A client that keeps to no rule. */
  async function raw(...sent: readonly Buffer[]): Promise<Socket> {
    const socket = connect(socketPath).on("error", () => undefined);
    onTestFinished(() => void socket.destroy());
    await new Promise((resolve) => socket.once("connect", resolve));
    for (const bytes of sent) socket.write(bytes);
    return socket;
  }
  async function answersOf(socket: Socket): Promise<Frame[]> {
    const read: Frame[] = [];
    for await (const one of frames(socket)) read.push(one);
    return read;
  }
  const codeOf = (frame: Frame | undefined): unknown =>
    frame === undefined ? "none" : (jsonOf(frame) as { code: unknown }).code;

  test("the socket is root's alone, and a directory that is not is no engine's", async () => {
    expect(lstatSync(join(run, ENGINE, "control")).mode & 0o777).toBe(0o700);
    expect(lstatSync(socketPath).mode & 0o777).toBe(0o600);
    chmodSync(join(run, ENGINE, "control"), 0o755);
    expect((await listSandboxes({ run })).sandboxes).toEqual([]);
    chmodSync(join(run, ENGINE, "control"), 0o700);
    expect((await listSandboxes({ run })).sandboxes).toMatchObject([
      { id: ID, name: "web", level: "container", image: "base", paused: false, pid: process.pid },
      { id: "s0123000000000000", name: null },
    ]);
  });

  test("what nobody listens at any more is no engine, and its names are free", async () => {
    const dead = join(run, "edeaddeaddeaddead/control");
    mkdirSync(dead, { recursive: true, mode: 0o700 });
    const script = "import socket,sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])";
    execFileSync("python3", ["-c", script, join(dead, "socket")]);
    writeFileSync(join(dead, "name-old"), "");
    expect(await listSandboxes({ run })).toMatchObject({ sandboxes: { length: 2 }, silent: [] });
    await using _ = await claimName("old", run, server.directory);
  });

  test("a name belongs to one at a time, whoever asks at the same time", async () => {
    const asked = await Promise.allSettled([1, 2, 3].map(() => claimName("one", run, server.directory)));
    const got = asked.filter((one) => one.status === "fulfilled");
    expect(got).toHaveLength(1);
    for (const one of asked)
      if (one.status === "rejected") expect(one.reason).toMatchObject({ code: "SANDBOX_NAME_TAKEN" });
    await got[0]?.value[Symbol.asyncDispose]();
    await using _ = await claimName("one", run, server.directory);
    for (const bad of ["", "../x", "a/b", "Web", ID, "-x", "x".repeat(64)])
      expect((await failure(claimName(bad, run, server.directory))).code, bad).toBe("SPEC_INVALID");
  });

  test("by name, by id, by what an id begins with; else why not", async () => {
    for (const word of ["web", ID, "s01234"]) {
      await using box = await find(word);
      expect(box.about.id).toBe(ID);
    }
    expect(await failure(find("s0123"))).toMatchObject({
      code: "SANDBOX_AMBIGUOUS",
      why: `they are web (${ID}), s0123000000000000`,
    });
    for (const word of ["", "we", "s9", "../web"]) {
      const error = await failure(find(word));
      expect([word, error.code, error.why]).toEqual([
        word,
        "SANDBOX_NOT_FOUND",
        `what runs: web (${ID}), s0123000000000000`,
      ]);
    }
  });

  test("a tree goes in and comes out; failures are those of the same process", async () => {
    await using box = await find("web");
    mkdirSync(at("tree/deep"), { recursive: true });
    const big = Buffer.alloc(3_000_001, "0123456789\n");
    writeFileSync(at("tree/deep/big"), big);
    writeFileSync(at("tree/empty"), "");
    for (let i = 0; i < 200; i++) writeFileSync(at(`tree/${i}`), `${i}`);
    const copied = await box.copyIn(at("tree"), at("inside"));
    expect(copied).toMatchObject({ files: 202, directories: 2 });
    expect(await box.copyOut(at("inside"), at("back"))).toEqual(copied);
    expect(readFileSync(at("back/deep/big")).equals(big)).toBe(true);
    expect(readFileSync(at("back/empty"), "utf8")).toBe("");
    for (const [code, work] of [
      ["COPY_REFUSED", () => box.copyOut(at("inside"), at("back"))],
      ["FILE_NOT_FOUND", () => box.copyOut(at("none"), at("x"))],
      ["FILE_IS_A_DIRECTORY", () => box.copyIn(at("tree/empty"), at("inside/deep"))],
      ["HOST_RESOURCE", () => box.copyIn(at("none"), at("x"))],
      ["OUTPUT_LIMIT", () => box.copyIn(at("tree"), at("x"), { maxEntries: 5 })],
      ["SPEC_INVALID", () => box.files.stat("x".repeat(5000))],
    ] as const)
      expect((await failure(work())).code).toBe(code);
  });

  test("a copy that is called off stops", async () => {
    await using box = await find("web");
    const signal = AbortSignal.timeout(50);
    expect((await failure(box.copyIn("/dev/zero", at("zero"), { signal }))).code).toBe("COPY_REFUSED");
    async function* endless(): AsyncGenerator<string> {
      for (;;) yield "x".repeat(1000);
    }
    expect((await failure(box.files.write(at("endless"), endless(), { signal }))).code).toBe("ABORTED");
  });

  test("a program's output, input, exit code and signals are exact", async () => {
    await using box = await find("web");
    const ended = async (script: string, options = {}, input?: Buffer) => {
      const program = await box.exec(["sh", "-c", script], options);
      const lanes: Promise<Buffer[]>[] = [program.stdout, program.stderr].map((lane) => lane.toArray());
      if (input !== undefined) await program.write(input).then(() => program.endInput());
      const [out, err] = (await Promise.all(lanes)).map((pieces) => Buffer.concat(pieces));
      return { ...(await program.ended), out: out!, err: err!.toString() };
    };
    expect(await ended("echo out; echo err >&2; exit 7")).toMatchObject({ code: 7, signal: null, err: "err\n" });
    expect(await ended("kill -KILL $$")).toMatchObject({ code: 137, signal: "SIGKILL" });
    const much = Buffer.alloc(5_000_000, "abcdefg");
    expect((await ended("cat", { stdin: true }, much)).out.equals(much)).toBe(true);
    expect((await ended("pwd; echo $A", { cwd: "/usr", env: ["A=b=c"] })).out.toString()).toBe("/usr\nb=c\n");
    expect((await failure(box.exec(["/no/such"]))).code).toBe("COMMAND_NOT_FOUND");
    const deaf = await box.exec(["sleep", "600"], { stdin: true });
    deaf.stdout.resume();
    const writing = deaf.write(Buffer.alloc(3_000_000)).catch((error: unknown) => error);
    deaf.kill("SIGTERM", { group: false });
    expect(await deaf.ended).toEqual({ code: 143, signal: "SIGTERM" });
    await writing;
  });

  test("a client that goes takes its program with it", async () => {
    const ask = request({ op: "execute", sandbox: ID, argv: ["sh", "-c", "echo $$; exec sleep 600"] });
    const socket = await raw(ask);
    let pid = 0;
    for await (const { kind, body } of frames(socket)) {
      if (kind !== Kind.data) continue;
      pid = Number(body.toString());
      break;
    }
    socket.destroy();
    await expect.poll(() => agent.box.processes().then((all) => all.some((one) => one.pid === pid))).toBe(false);
  });

  test("whoever is slow, silent, too many or breaks the rules harms nobody else", async () => {
    const list = () => listSandboxes({ run });
    expect(await answersOf(await raw())).toEqual([]);
    expect(await answersOf(await raw(request({ op: "list" }).subarray(0, 9)))).toEqual([]);
    for (const [sent, code] of [
      [Buffer.from("GET / HTTP/1.1\r\n\r\n"), "SPEC_INVALID"],
      [frame(Kind.request, Buffer.from("{")), "SPEC_INVALID"],
      [frame(Kind.request, Buffer.from("[]")), "SPEC_INVALID"],
      [frame(Kind.end), "SPEC_INVALID"],
      [request({ op: "list", generation: 2 }), "SPEC_INVALID"],
      [request({ op: "constructor", sandbox: ID }), "SPEC_INVALID"],
      [request({ op: "stat", sandbox: "s9" }), "SANDBOX_GONE"],
      [request({ op: "stat", sandbox: ID, path: 7 }), "SPEC_INVALID"],
      [request({ op: "execute", sandbox: ID, argv: "sh" }), "SPEC_INVALID"],
    ] as const)
      expect(codeOf((await answersOf(await raw(sent))).at(-1))).toBe(code);
    const write = request({ op: "write", sandbox: ID, path: Buffer.from(at("w")).toString("base64"), mode: 420 });
    const hasty = await raw(write, Buffer.concat(Array<Buffer>(50).fill(frame(Kind.data, Buffer.alloc(200_000)))));
    expect(codeOf((await answersOf(hasty)).at(-1))).toBe("SPEC_INVALID");
    for (let i = 0; i < 5; i++) await raw(request({ op: "execute", sandbox: ID, argv: ["yes"] }));
    expect((await list()).sandboxes).toHaveLength(2);
    for (let i = 0; i < LIMITS.maxConnections; i++) await raw();
    expect(codeOf((await answersOf(await raw(request({ op: "list" })))).at(-1))).toBe("STREAM_LIMIT");
    await expect.poll(async () => (await list()).sandboxes.length).toBe(2);
  });
});
