import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, constants, mkdtempSync, openSync, rmSync } from "node:fs";
import { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spawnSync } from "node:child_process";
import type { Plan } from "@bulkhead/contract";
import { Channel, type AttachOptions } from "../channel/channel.ts";
import { HostGone, type Configure } from "../channel/wire.gen.ts";
import { Sandbox, type SandboxEnd } from "../sandbox/sandbox.ts";
import { agentPath } from "./config.ts";

export const CONFIGURE: Configure = {
  hostGone: HostGone.exit,
  defaultUser: "",
  allowSetuid: true,
  env: [],
  hostname: "",
  elevate: false,
  openFiles: 0n,
  filter: new Uint8Array(),
};

export interface RealAgent extends AsyncDisposable {
  readonly child: ChildProcess;
  readonly channel: Channel;
  readonly box: Sandbox;
  readonly writable: AttachOptions["writable"];
  /** Another host's ends of the same FIFOs. */
  reopen(): Ends;
}

export interface RealOptions extends Partial<Omit<AttachOptions, "readable" | "writable">> {
  readonly over?: "pipes" | "fifos";
}

/** The agent as an ordinary process, over pipes or over FIFOs as every driver has them. */
export async function startRealAgent(options: RealOptions = {}): Promise<RealAgent> {
  if (agentPath === null) throw new Error("the agent is not built: cargo build --release -p bulkhead-agent");
  const { over = "pipes", ...attach } = options;
  const io = over === "pipes" ? overPipes(agentPath) : overFifos(agentPath);
  const ended = new Promise<SandboxEnd>((resolve) => {
    io.child.once("exit", (code, signal) => resolve({ code, signal, oomKilled: false }));
  });
  const release = async (): Promise<void> => {
    io.child.kill("SIGKILL");
    await ended;
    io.clean();
  };
  try {
    const channel = await Channel.attach({
      readable: io.readable,
      writable: io.writable,
      fresh: true,
      configure: CONFIGURE,
      ...attach,
    });
    const box = new Sandbox({ id: "test", plan: {} as Plan, channel, ended, release });
    return {
      child: io.child,
      channel,
      box,
      writable: io.writable,
      reopen: () => io.reopen(),
      [Symbol.asyncDispose]: () => box.kill(),
    };
  } catch (error) {
    await release();
    throw error;
  }
}

export interface Ends {
  readonly readable: AttachOptions["readable"];
  readonly writable: AttachOptions["writable"];
}

interface Io extends Ends {
  readonly child: ChildProcess;
  reopen(): Ends;
  clean(): void;
}

function overPipes(path: string): Io {
  const child = spawn(path, [], { stdio: ["pipe", "pipe", "inherit"] });
  if (child.stdin === null || child.stdout === null) throw new Error("no pipes");
  const reopen = (): never => {
    throw new Error("pipes cannot be opened again");
  };
  return { child, readable: child.stdout, writable: child.stdin, reopen, clean: () => {} };
}

function overFifos(path: string): Io {
  const dir = mkdtempSync(join(tmpdir(), "bulkhead-channel-"));
  const [input, output] = [join(dir, "in"), join(dir, "out")];
  spawnSync("mkfifo", ["-m", "600", input, output]);
  // Read-write opens never block, and keep both FIFOs alive until the child has its own ends.
  const [heldIn, heldOut] = [openSync(input, "r+"), openSync(output, "r+")];
  const reopen = (): Ends => {
    const writeFd = openSync(input, constants.O_WRONLY | constants.O_NONBLOCK);
    const readFd = openSync(output, constants.O_RDONLY | constants.O_NONBLOCK);
    const readable = new Socket({ fd: readFd, readable: true, writable: false });
    return { readable, writable: new Socket({ fd: writeFd, readable: false, writable: true }) };
  };
  const ends = reopen();
  const [childIn, childOut] = [openSync(input, "r"), openSync(output, "w")];
  const child = spawn(path, [], { stdio: [childIn, childOut, "inherit"] });
  for (const fd of [heldIn, heldOut, childIn, childOut]) closeSync(fd);
  return { child, ...ends, reopen, clean: () => rmSync(dir, { recursive: true, force: true }) };
}
