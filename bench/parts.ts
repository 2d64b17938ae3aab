import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { availableBytes } from "./machine.ts";
import type { Options, Part } from "./options.ts";
import type { Memory, Peer, Standing } from "./peer.ts";
import { PYTHON, TRUE } from "./peer.ts";
import { type Entry, interleave, type Series } from "./schedule.ts";

const MIB = 1024 * 1024;
/** Enough that starting the program counts little; an emulated guest needs 3 s for it. */
const THROUGHPUT_BYTES = 64 * MIB;
const QUICK_THROUGHPUT_BYTES = 16 * MIB;
const BLOCK_BYTES = MIB;
/** Sandboxes that are weighed together. */
const MANY = 20;
const QUICK_MANY = 4;
/** What a start has put off is done by then. */
const SETTLE_MS = 2_000;

export interface Column {
  /** Key in the series' values. */
  readonly key: string;
  readonly title: string;
  readonly unit: "ms" | "MiB/s" | "MiB";
  readonly p95: boolean;
}

export interface Result {
  readonly part: Part;
  readonly title: string;
  readonly columns: readonly Column[];
  readonly series: readonly Series[];
}

export interface Bench {
  readonly options: Options;
  readonly signal: AbortSignal;
  readonly progress: (text: string) => void;
}

const ms = (key: string, title: string): Column => ({ key, title, unit: "ms", p95: true });

const COLD: readonly Column[] = [
  ms("ready", "ready"),
  ms("trueDone", "true done"),
  ms("pythonFirst", "python first byte"),
  ms("pythonDone", "python done"),
];
const EXEC: readonly Column[] = [ms("trueDone", "true"), ms("pythonDone", "python")];

function coldEntry(peer: Peer): Entry[] {
  const { cold } = peer;
  if (cold === null) return [];
  const run = async (): Promise<Record<string, number>> => {
    const one = await cold(TRUE);
    const two = await cold(PYTHON);
    const ready = one.readyMs === undefined ? {} : { ready: one.readyMs };
    return { ...ready, trueDone: one.doneMs, pythonFirst: two.firstMs, pythonDone: two.doneMs };
  };
  return [{ name: peer.name, run }];
}

export async function measureCold(
  bench: Bench,
  part: "cold" | "cli",
  title: string,
  peers: readonly Peer[],
): Promise<Result> {
  const rounds = bench.options.quick ? 5 : 21;
  const series = await interleave(peers.flatMap(coldEntry), { ...bench, rounds, warmups: 2 });
  return { part, title, columns: COLD, series };
}

/** Runs `use` with one standing sandbox of each peer that has them; one that cannot be made is a failed row. */
async function withStanding<T>(
  bench: Bench,
  peers: readonly Peer[],
  use: (all: readonly { readonly peer: Peer; readonly box: Standing }[], failed: readonly Series[]) => Promise<T>,
): Promise<T> {
  await using stack = new AsyncDisposableStack();
  const all: { peer: Peer; box: Standing }[] = [];
  const failed: Series[] = [];
  for (const peer of peers) {
    if (peer.stand === null) continue;
    bench.signal.throwIfAborted();
    bench.progress(`starting ${peer.name}`);
    try {
      all.push({ peer, box: stack.use(await peer.stand()) });
    } catch (error) {
      failed.push({ name: peer.name, values: {}, busy: 0, failure: String(error) });
    }
  }
  return await use(all, failed);
}

export async function measureExec(bench: Bench, peers: readonly Peer[]): Promise<Result> {
  return await withStanding(bench, peers, async (all, failed) => {
    const entries = all.map(({ peer, box }) => ({
      name: peer.name,
      run: async () => {
        const one = await box.exec(TRUE);
        const two = await box.exec(PYTHON);
        return { trueDone: one.doneMs, pythonDone: two.doneMs };
      },
    }));
    const series = await interleave(entries, { ...bench, rounds: bench.options.quick ? 10 : 51, warmups: 3 });
    return { part: "exec", title: "a program in a running sandbox", columns: EXEC, series: [...series, ...failed] };
  });
}

function blocks(bytes: number): Readable {
  const block = Buffer.alloc(BLOCK_BYTES, "x");
  function* all(): Generator<Buffer> {
    for (let sent = 0; sent < bytes; sent += BLOCK_BYTES) yield block.subarray(0, Math.min(BLOCK_BYTES, bytes - sent));
  }
  return Readable.from(all(), { objectMode: false });
}

export async function measureThroughput(bench: Bench, peers: readonly Peer[]): Promise<Result> {
  const bytes = bench.options.quick ? QUICK_THROUGHPUT_BYTES : THROUGHPUT_BYTES;
  const rate = (milliseconds: number): number => bytes / MIB / (milliseconds / 1000);
  return await withStanding(bench, peers, async (all, failed) => {
    const entries = all.map(({ peer, box }) => ({
      name: peer.name,
      run: async () => {
        const output = rate(await box.pullOutput(bytes));
        const write = rate(await box.writeFile(bytes, blocks(bytes)));
        return { output, write, read: rate(await box.readFile(bytes)) };
      },
    }));
    const series = await interleave(entries, { ...bench, rounds: bench.options.quick ? 2 : 3, warmups: 1 });
    const columns: Column[] = [
      { key: "output", title: "stdout", unit: "MiB/s", p95: false },
      { key: "write", title: "file write", unit: "MiB/s", p95: false },
      { key: "read", title: "file read", unit: "MiB/s", p95: false },
    ];
    return {
      part: "throughput",
      title: `bytes through the boundary, ${bytes / MIB} MiB each`,
      columns,
      series: [...series, ...failed],
    };
  });
}

/** Starts `count` sandboxes of one peer and weighs them, each alike. What they share counts once among all of them. */
async function weigh(bench: Bench, stand: () => Promise<Standing>, count: number): Promise<Memory & { drop: number }> {
  await using stack = new AsyncDisposableStack();
  const before = await availableBytes();
  const boxes: Standing[] = [];
  while (boxes.length < count) {
    bench.signal.throwIfAborted();
    boxes.push(stack.use(await stand()));
  }
  await sleep(SETTLE_MS);
  const each = await Promise.all(boxes.map((box) => box.memory()));
  const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / count / MIB;
  return {
    pssBytes: mean(each.map(({ pssBytes }) => pssBytes)),
    chargedBytes: mean(each.map(({ chargedBytes }) => chargedBytes)),
    drop: (before - (await availableBytes())) / count / MIB,
  };
}

export async function measureMemory(bench: Bench, peers: readonly Peer[]): Promise<Result> {
  const many = bench.options.quick ? QUICK_MANY : MANY;
  const series: Series[] = [];
  for (const { name, stand } of peers) {
    if (stand === null || name === "bare process") continue;
    bench.progress(`weighing ${name}`);
    try {
      const one = await weigh(bench, stand, 1);
      const all = await weigh(bench, stand, many);
      const values = { pss: [one.pssBytes], charged: [one.chargedBytes], pssOfMany: [all.pssBytes], drop: [all.drop] };
      series.push({ name, values, busy: 0, failure: null });
    } catch (error) {
      bench.signal.throwIfAborted();
      series.push({ name, values: {}, busy: 0, failure: String(error) });
    }
  }
  const column = (key: string, title: string): Column => ({ key, title, unit: "MiB", p95: false });
  const columns = [
    column("pss", "PSS of one"),
    column("charged", "charged to its group"),
    column("pssOfMany", `PSS each of ${many}`),
    column("drop", `less available, each of ${many}`),
  ];
  return { part: "memory", title: "an idle sandbox", columns, series };
}
