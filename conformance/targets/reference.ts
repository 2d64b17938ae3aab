import type { Plan } from "@bulkhead/contract";
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Channel } from "../../packages/engine/src/channel/channel.ts";
import { HostGone } from "../../packages/engine/src/channel/wire.gen.ts";
import { Sandbox, type SandboxEnd } from "../../packages/engine/src/sandbox/sandbox.ts";
import { exists, processesSeeing } from "../host.ts";
import type { BoxSpec, OpenTarget, Target } from "../target.ts";
import { boxOf } from "./adapt.ts";
import { config } from "./config.ts";

/**
 * Prepares what a program sees, not what it may do: the root directory is the image's, everything else is the host's. Its
 * own mount and host-name namespaces keep the machine clean.
 */
const PREPARE = `set -e
mount -t tmpfs -o size=512m tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
for place in proc sys dev; do mount --rbind "/$place" "$1/root/$place"; done
mkdir -p "$1/root/.bulkhead"
cp "$3" "$1/root/.bulkhead/agent"
exec chroot "$1/root" /.bulkhead/agent`;

async function start(directory: string, rootfs: string, spec: BoxSpec): Promise<Sandbox> {
  const id = `reference-${randomBytes(4).toString("hex")}`;
  const place = join(directory, id);
  await mkdir(place);
  const child = spawn(
    "unshare",
    ["--mount", "--uts", "--propagation", "private", "sh", "-c", PREPARE, "sh", place, rootfs, config.agent],
    {
      stdio: ["pipe", "pipe", "inherit"],
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
      detached: true,
    },
  );
  const ended = new Promise<SandboxEnd>((resolve) =>
    child.once("exit", (code, signal) => resolve({ code, signal, oomKilled: false })),
  );
  const release = async (): Promise<void> => {
    child.kill("SIGKILL");
    await ended;
    // Nothing holds the agent's children together here but the mounts they see.
    for (const pid of await processesSeeing(place)) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // It has ended by itself.
      }
    }
  };
  const env = Object.entries(spec.env ?? {}).map(([name, value]) => Buffer.from(`${name}=${value}`));
  const configure = {
    hostGone: HostGone.exit,
    defaultUser: spec.user ?? "user",
    allowSetuid: true,
    env,
    hostname: "",
    elevate: false,
    openFiles: 0n,
    filter: new Uint8Array(),
  };
  try {
    const channel = await Channel.attach({ readable: child.stdout, writable: child.stdin, fresh: true, configure });
    const plan = { process: { workdir: spec.workdir ?? null } } as Plan;
    return new Sandbox({ id, plan, channel, ended, release });
  } catch (error) {
    await release();
    throw error;
  }
}

/** The agent as an ordinary process: it shows that the functional checks check, and that the isolation checks can fail. */
export function reference(findRootfs: () => Promise<string>): Target {
  return {
    name: "reference",
    traits: { level: null, elevation: "setuid", ownKernel: false, snapshot: false },
    available: async () =>
      (await exists(config.agent))
        ? { ok: true }
        : { ok: false, reason: `no agent at ${config.agent}; cargo build --release` },
    open: async (): Promise<OpenTarget> => {
      const directory = await mkdtemp(join(tmpdir(), "conformance-reference-"));
      const rootfs = await findRootfs();
      return {
        create: async (spec = {}) => boxOf(await start(directory, rootfs, spec)),
        restore: () => Promise.reject(new Error("the reference saves nothing")),
        removeSnapshot: () => Promise.reject(new Error("the reference saves nothing")),
        removeKept: () => Promise.reject(new Error("the reference keeps nothing")),
        can: async () => ({ pause: false, snapshot: false }),
        outside: null,
        plan: async () => null,
        [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }),
      };
    },
  };
}
