import { once } from "node:events";
import { connect, type AddressInfo, type Socket } from "node:net";
import { Worker } from "node:worker_threads";
import { Engine, type Sandbox } from "@bulkhead/engine";
import type { Lab } from "./lab.ts";
import type { Bench, Column, Result } from "./parts.ts";
import { interleave, type Entry } from "./schedule.ts";
import { median } from "./stats.ts";
import { output } from "./timing.ts";

const MIB = 1024 * 1024;
const NAME = "speed.example.com";
/** Any public address; it is led to this host's loopback. */
const ADDRESS = "93.184.216.34";
const BYTES = { full: 64 * MIB, quick: 16 * MIB };
/** Requests after the first on one connection. */
const AGAIN = 20;
const LEVELS = ["container", "gvisor", "microvm"] as const;

const COLUMNS: readonly Column[] = [
  { key: "receive", title: "receive", unit: "MiB/s", p95: false },
  { key: "send", title: "send", unit: "MiB/s", p95: false },
  { key: "first", title: "name, connection, first byte", unit: "ms", p95: true },
  { key: "again", title: "one more request", unit: "ms", p95: true },
];

type Curl = (argv: readonly string[]) => Promise<string>;

/** The same client everywhere, which times itself. */
async function measured(curl: Curl, base: string, bytes: number): Promise<Record<string, number>> {
  const said = async (format: string, ...more: string[]): Promise<number[]> => {
    const text = await curl(["curl", "-sS", "--fail", "-o", "/dev/null", "-w", `%{${format}}\n`, ...more]);
    return text.trim().split("\n").map(Number);
  };
  const [received = Number.NaN] = await said("speed_download", `${base}/${bytes}`);
  const fill = `head -c ${bytes} /dev/zero | curl -sS --fail -o /dev/null -w '%{speed_upload}' -T - ${base}/`;
  const sent = Number(await curl(["sh", "-c", fill]));
  const small = Array.from({ length: AGAIN + 1 }, () => ["-o", "/dev/null", `${base}/1`]).flat();
  const [first = Number.NaN, ...again] = await said("time_starttransfer", ...small.slice(2));
  return { receive: received / MIB, send: sent / MIB, first: first * 1000, again: median(again) * 1000 };
}

async function inside(box: Sandbox, argv: readonly string[]): Promise<string> {
  const { exitCode, text, stderr } = await box.exec(argv);
  if (exitCode !== 0) throw new Error(`${argv[0]} ended with ${exitCode}: ${stderr.toString()}`);
  return text;
}

/** What leaves a sandbox on its way to a server of this host, beside a direct connection. */
export async function measureEgress(bench: Bench, lab: Lab): Promise<Result> {
  await using stack = new AsyncDisposableStack();
  const server = new Worker(new URL("./egress-server.ts", import.meta.url));
  stack.defer(async () => void (await server.terminate()));
  const [{ port }] = (await once(server, "message")) as [AddressInfo];
  const outside = {
    resolve: async (name: string, family: 4 | 6) =>
      name === NAME ? (family === 4 ? [{ address: ADDRESS, ttl: 60 }] : []) : null,
    connect: async (_address: unknown, _port: number, signal: AbortSignal): Promise<Socket> => {
      const socket = connect({ host: "127.0.0.1", port, allowHalfOpen: true, noDelay: true, signal });
      await once(socket, "connect");
      return socket;
    },
    openUdp: () => Promise.reject(new Error("nothing answers datagrams here")),
    ownAddresses: () => [],
  };
  const engine = stack.use(await Engine.open({ run: await lab.path("run-egress"), outside }));
  const bytes = bench.options.quick ? BYTES.quick : BYTES.full;
  const direct = { name: "direct", run: () => measured(output, `http://127.0.0.1:${port}`, bytes) };
  const entries: Entry[] = [direct];
  for (const isolation of LEVELS) {
    bench.progress(`starting ${isolation}`);
    const box = stack.use(await engine.create({ isolation, network: { allow: [`${NAME}:80`] } }));
    const curl = (argv: readonly string[]): Promise<string> => inside(box, argv);
    entries.push({ name: `bulkhead ${isolation}`, run: () => measured(curl, `http://${NAME}`, bytes) });
  }
  const series = await interleave(entries, { ...bench, rounds: bench.options.quick ? 3 : 7, warmups: 1 });
  return { part: "egress", title: "what leaves, over plain HTTP", columns: COLUMNS, series };
}
