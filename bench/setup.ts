import { Engine } from "@bulkhead/engine";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { config } from "./config.ts";
import type { Lab } from "./lab.ts";
import type { Options } from "./options.ts";
import type { Peer, Setup } from "./peer.ts";
import { bare, bwrap } from "./peers/bare.ts";
import { docker } from "./peers/docker.ts";
import { borrow, ociPeer } from "./peers/oci.ts";
import { closeWith, ourCommand, ours } from "./peers/ours.ts";
import { podman } from "./peers/podman.ts";
import { qemuPeers } from "./peers/qemu.ts";
import { findTools } from "./peers/tools.ts";
import { packImage, type Root, rootMaker } from "./rootfs.ts";

export interface Field {
  /** Run without a command-line client of their own, or with the leanest there is. */
  readonly direct: readonly Peer[];
  /** What a person types: docker, podman, bulkhead. */
  readonly commands: readonly Peer[];
  readonly missing: readonly { readonly name: string; readonly missing: string }[];
}

async function runtimesAndUs(lab: Lab, engine: Engine, makeRoot: () => Promise<Root>): Promise<Setup[]> {
  const container = borrow((await engine.explain({ isolation: "container" })).steps);
  const setups: Setup[] = [{ ok: true, peers: [ociPeer(lab, makeRoot, { name: "crun, same config", ...container })] }];
  try {
    await using other = await Engine.open({ run: await lab.path("run-runc"), drivers: ["container/runc"] });
    const runc = borrow((await other.explain({ isolation: "container" })).steps);
    setups.push({ ok: true, peers: [ociPeer(lab, makeRoot, { name: "runc, same config", ...runc })] });
  } catch (error) {
    setups.push({ ok: false, name: "runc", missing: String(error) });
  }
  setups.push({ ok: true, peers: [ours(engine, "container", "bulkhead container", "crun, same config")] });
  try {
    const gvisor = borrow((await engine.explain({ isolation: "gvisor" })).steps);
    setups.push({ ok: true, peers: [ociPeer(lab, makeRoot, { name: "runsc, same config", ...gvisor })] });
    setups.push({ ok: true, peers: [ours(engine, "gvisor", "bulkhead gvisor", "runsc, same config")] });
  } catch (error) {
    setups.push({ ok: false, name: "gvisor", missing: String(error) });
  }
  return setups;
}

async function microvms(lab: Lab, engine: Engine): Promise<Setup[]> {
  try {
    const booted = await Engine.open({ run: await lab.path("run-booted"), templates: false });
    closeWith(lab, booted);
    const bare = await qemuPeers(lab, booted);
    const own = "qemu, our kernel";
    const peers = [
      ours(engine, "microvm", "bulkhead microvm", own),
      ours(booted, "microvm", "bulkhead microvm, booted", own),
    ];
    return [{ ok: true, peers }, ...bare];
  } catch (error) {
    return [{ ok: false, name: "microvm", missing: String(error) }];
  }
}

export async function setUp(lab: Lab, options: Options, progress: (text: string) => void): Promise<Field> {
  progress("looking for the peers' programs");
  const peersDirectory = config.peers ?? join(lab.directory, "peers");
  await mkdir(peersDirectory, { recursive: true });
  const tools = await findTools(peersDirectory, config.environment);
  const engine = await Engine.open({ run: await lab.path("run") });
  closeWith(lab, engine);
  const image = engine.images.resolve("base");
  const makeRoot = await rootMaker(lab, image.rootfs);
  const setups: Setup[] = [
    bare(lab),
    bwrap(tools.paths["bwrap"] ?? null, (await makeRoot()).path),
    ...(await runtimesAndUs(lab, engine, makeRoot)),
    ...(await microvms(lab, engine)),
  ];
  const commandSetups: Setup[] = [];
  progress("importing the image into docker and podman");
  const tar = await packImage(lab, image.rootfs);
  commandSetups.push(await podman(lab, tools, tar), await docker(lab, tools, tar));
  const env = { ...config.environment, BULKHEAD_RUN: await lab.path("run-cli") };
  const peers = (["container", "gvisor", "microvm"] as const).map((level) =>
    ourCommand(config.command, level, "docker run", env),
  );
  commandSetups.push({ ok: true, peers });
  const wanted = (peer: Peer): boolean =>
    options.peers.length === 0 || options.peers.some((word) => peer.name.includes(word));
  const found = (all: readonly Setup[]): Peer[] => all.flatMap((s) => (s.ok ? s.peers : [])).filter(wanted);
  const missing = [...setups, ...commandSetups].flatMap((s) => (s.ok ? [] : [{ name: s.name, missing: s.missing }]));
  return { direct: found(setups), commands: found(commandSetups), missing };
}
