/**
 * What the channel itself costs, over the real agent as an ordinary process, without any sandbox around it:
 *   cargo build --release -p bulkhead-agent && node bench/channel.ts
 */
import { type RealAgent, startRealAgent } from "../packages/engine/src/testing/real-agent.ts";

const BYTES = 2 * 1024 ** 3;
const PIECE = Buffer.alloc(256 * 1024);
const EXECS = 500;
const WARM = 100;
const PINGS = 2_000;

type Row = Record<string, string>;

async function output({ box }: RealAgent): Promise<void> {
  const execution = box.exec(["head", "-c", String(BYTES), "/dev/zero"]);
  let got = 0;
  execution.stdout.on("data", (piece: Buffer) => (got += piece.length));
  await execution;
  if (got !== BYTES) throw new Error(`${got} bytes came out, not ${BYTES}`);
}

async function input({ box }: RealAgent): Promise<void> {
  const execution = box.exec("cat > /dev/null", { stdin: true });
  const { stdin } = execution;
  for (let sent = 0; sent < BYTES; sent += PIECE.length) {
    if (!stdin.write(PIECE)) await new Promise((resolve) => stdin.once("drain", resolve));
  }
  stdin.end();
  await execution;
}

async function throughput(agent: RealAgent, move: (agent: RealAgent) => Promise<void>): Promise<Row> {
  const before = process.cpuUsage();
  const start = performance.now();
  await move(agent);
  const ms = performance.now() - start;
  const cpu = process.cpuUsage(before);
  return { "MB/s": (BYTES / 1000 / ms).toFixed(0), "host CPU %": ((cpu.user + cpu.system) / 10 / ms).toFixed(0) };
}

async function latency(runs: number, once: () => PromiseLike<unknown>): Promise<Row> {
  const times: number[] = [];
  for (let i = 0; i < WARM + runs; i += 1) {
    const start = performance.now();
    await once();
    if (i >= WARM) times.push(performance.now() - start);
  }
  times.sort((a, b) => a - b);
  const at = (share: number): string => (times[Math.floor(share * (times.length - 1))] ?? 0).toFixed(3);
  return { "p50 ms": at(0.5), "p95 ms": at(0.95), "min ms": at(0) };
}

for (const over of ["fifos", "pipes"] as const) {
  await using agent = await startRealAgent({ over });
  console.table({
    [`${over}: stdout`]: await throughput(agent, output),
    [`${over}: stdin`]: await throughput(agent, input),
  });
  console.table({
    [`${over}: exec /bin/true`]: await latency(EXECS, () => agent.box.exec(["/bin/true"])),
    [`${over}: ping`]: await latency(PINGS, () => agent.box.ping()),
  });
}
