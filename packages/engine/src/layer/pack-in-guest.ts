import { createWriteStream } from "node:fs";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { BulkheadError, formatBytes } from "@bulkhead/contract";
import type { Driver, LayerAside, Runtime } from "../drivers/driver.ts";
import { loadDrivers } from "../drivers/registry.ts";
import { gatherFacts, type HostFacts } from "../host/facts.ts";
import { configOf } from "../host/index.ts";
import { probe } from "../host/probe.ts";
import { programOf } from "../policy/program.ts";
import type { ResolvedSpec } from "../policy/resolve.ts";
import type { ExecResult } from "../sandbox/exec-result.ts";
import { openSandbox } from "../sandbox/open.ts";
import type { Sandbox } from "../sandbox/sandbox.ts";
import { Keeper } from "../system/keeper.ts";
import type { KeptLayer } from "./kept.ts";
import { PACK_TIMEOUT_MS, packFailure, type Packing } from "./packing.ts";
import { PACKER, packerImage } from "./packer-image.ts";

const MIB = 1024 * 1024;
const PIDS = 16;
/** A line of the packer's. */
const MAX_WORDS_BYTES = 64 * 1024;
/**
 * Of the layer's disk, or of what it may become unpacked: headers of many small files take as much as the files do. A disk whose directories hold each other is
 * packed without an end.
 */
const ARCHIVE_PER_DISK = 2;
const ARCHIVE_FLOOR_BYTES = 64 * MIB;

interface Reader {
  readonly aside: LayerAside;
  readonly driver: Driver;
  readonly runtime: Runtime;
}

/** @throws BulkheadError LEVEL_UNAVAILABLE and what starting a guest throws */
async function findReader(host: HostFacts, keeper: Keeper, { signal, onProgress }: Packing): Promise<Reader> {
  const help = { host, keeper: async () => keeper, onProgress, ...(signal !== undefined && { signal }) };
  const guests = (await loadDrivers(host)).filter(({ capabilities }) => capabilities.layerWriter === "guest");
  let why = { reason: "no level here has guests", remedy: "see bulkhead doctor" };
  for (const driver of guests) {
    const found = driver.locate(host);
    const settled = found.ok ? ((await driver.survey?.(help)) ?? driver) : driver;
    const tried = found.ok ? await probe({ ...help, driver: settled }) : found;
    const { layerAside: aside } = settled;
    if (tried.ok && aside !== undefined) return { aside, driver: settled, runtime: tried.runtime };
    if (!tried.ok) why = tried;
  }
  throw new BulkheadError("LEVEL_UNAVAILABLE", {
    what: "no image can be made of a layer that a guest wrote",
    why: `only a guest may read it, and none can be had: ${why.reason}`,
    next: why.remedy,
  });
}

function specOf({ name, bytes, inodes }: KeptLayer, driver: Driver): ResolvedSpec {
  const reason = `reads the layer kept as ${name}`;
  return {
    level: driver.level,
    levelReason: reason,
    hardware: false,
    image: PACKER,
    // The image has no list of users.
    user: "0:0",
    env: {},
    mounts: [],
    volumes: [],
    network: "none",
    // It gives its rights up itself, for which it needs them all.
    allowSetuid: true,
    hostname: "packer",
    cpus: 1,
    memoryBytes: driver.defaultMemoryBytes ?? 512 * MIB,
    pids: PIDS,
    diskBytes: bytes,
    diskInodes: inodes,
    layer: { backing: "file", keep: name },
    layerReason: reason,
    blockDevices: [],
    program: programOf({}, {}),
    makes: [],
  };
}

/** Passes on what comes, up to an end. */
function bounded(name: string, most: number): Transform {
  let seen = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      seen += chunk.length;
      if (seen <= most) return done(null, chunk);
      const what = `the layer kept as ${name} makes an archive of more than ${formatBytes(most)}`;
      const why = "its disk holds less: directories of it hold each other, or files share their contents";
      done(new BulkheadError("IMAGE_REFUSED", { what, why, details: { kind: "too-large", limit: most } }));
    },
  });
}

function hostFailure(cause: unknown, name: string): unknown {
  if (!(cause instanceof Error) || !("syscall" in cause)) return cause;
  const { code: errno = "" } = cause as NodeJS.ErrnoException;
  return new BulkheadError("HOST_RESOURCE", {
    what: `the archive of the layer kept as ${name} cannot be written: ${errno}`,
    next: "check that the disk of the state directory has room",
    cause,
  });
}

/** What it means when the guest did not do what it was for. */
function explain(error: unknown, { kept: { name }, signal }: Packing): unknown {
  if (signal?.aborted === true)
    return new BulkheadError("ABORTED", { what: "the commit was called off", cause: error });
  if (!(error instanceof BulkheadError)) return hostFailure(error, name);
  if (!GONE.has(error.code)) return error;
  return new BulkheadError("KEPT_INVALID", {
    what: `the layer kept as ${name} cannot be read`,
    why: `the guest that read it ended: ${error.why ?? error.message}`,
    cause: error,
  });
}

/** A kernel that a disk brought down, or that says what no agent says. */
const GONE: ReadonlySet<string> = new Set(["SANDBOX_GONE", "CHANNEL_CLOSED", "CHANNEL_PROTOCOL"]);

async function stream(box: Sandbox, device: string, packing: Packing): Promise<ExecResult> {
  const { kept, archive, mostBytes, signal } = packing;
  const most = ARCHIVE_PER_DISK * Math.min(kept.bytes, mostBytes) + ARCHIVE_FLOOR_BYTES;
  const stop = signal === undefined ? {} : { signal };
  const packer = box.exec([PACKER, "pack-device", "--device", device], {
    timeoutMs: PACK_TIMEOUT_MS,
    maxOutputBytes: MAX_WORDS_BYTES,
    ...stop,
  });
  const written = pipeline(
    packer.stdout,
    bounded(kept.name, most),
    createWriteStream(archive, { flags: "wx", mode: 0o600 }),
  );
  const result = Promise.resolve(packer);
  result.catch(() => undefined);
  try {
    await written;
  } catch (error) {
    // Of a guest that is gone the program knows why.
    if (error instanceof BulkheadError && GONE.has(error.code)) await result;
    throw error;
  }
  return await result;
}

/**
 * A guest that runs nothing but the packer reads the layer's disk and sends what it finds as an archive. Whatever that disk does to
 * the guest's kernel ends with the guest; what comes of it is as trustworthy as the disk.
 * @throws BulkheadError KEPT_IN_USE, KEPT_INVALID, IMAGE_REFUSED, LEVEL_UNAVAILABLE, HOST_RESOURCE, RUNTIME_FAILED, KEEPER_FAILED,
 * TIMEOUT (an hour), ABORTED
 */
export async function packInGuest(packing: Packing): Promise<void> {
  const { kept, directories, program, signal, onProgress } = packing;
  const stop = signal === undefined ? {} : { signal };
  try {
    const host = await gatherFacts(configOf(directories), signal);
    await using keeper = await Keeper.start({ path: host.paths.keeper, runDir: host.paths.run, ...stop });
    const { aside, driver, runtime } = await findReader(host, keeper, packing);
    const image = await packerImage(host.paths.state, program, signal);
    const plan = driver.plan(specOf(kept, driver), runtime, image, host);
    onProgress("starting a guest that reads what was written");
    const held: AsyncDisposable = { [Symbol.asyncDispose]: async () => undefined };
    await using box = await openSandbox({ keeper, driver: aside.driver, plan, image, host, held, onProgress, ...stop });
    onProgress("packing what was written");
    const result = await stream(box, aside.device, packing);
    if (!result.ok) throw failed(kept.name, result);
  } catch (error) {
    throw explain(error, packing);
  }
}

function failed(name: string, { stderr, exitCode, signal }: ExecResult): BulkheadError {
  const said = packFailure(stderr.toString(), name);
  // The packer's own word for what a kernel refuses: here the disk is all that it may have been refused.
  if (said !== null && said.details["kind"] !== "io") return said;
  return new BulkheadError("KEPT_INVALID", {
    what: said?.message ?? `the layer kept as ${name} cannot be read`,
    why: said === null ? `its reader ended with ${signal ?? `code ${exitCode}`}` : "its file system is damaged",
    details: said?.details ?? {},
  });
}
