import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Lab } from "../lab.ts";
import { chargedTo, diskBytes, processesNaming, processesOf, pssOf, writeJson } from "../lab.ts";
import type { Images, Peer, Setup } from "../peer.ts";
import { output, timeProgram } from "../timing.ts";
import { standing } from "./command.ts";
import type { Tools } from "./tools.ts";

const START_LIMIT_MS = 30_000;
const STOP_LIMIT_MS = 20_000;

/** A daemon of the bench's own: its roots, its socket, no bridge, no firewall rule. */
export async function docker(lab: Lab, tools: Tools, imageTar: string): Promise<Setup> {
  const { docker: client, dockerd, containerd, runc } = tools.paths;
  if (client === undefined || dockerd === undefined || containerd === undefined || runc === undefined) {
    return { ok: false, name: "docker", missing: tools.missing("docker", "dockerd", "containerd", "runc") };
  }
  const home = await lab.path("docker");
  const daemon = await startDaemon(lab, home, dockerd, tools.env);
  const env = { ...tools.env, HOME: home };
  const run = [client, "-H", `unix://${home}/s`];
  try {
    await answering([...run, "version"], env, daemon);
  } catch (error) {
    return { ok: false, name: "docker", missing: `its daemon does not start: ${String(error)}` };
  }
  await output([...run, "import", imageTar, "base:1"], env);
  const tool = async (...words: readonly string[]): Promise<void> => void (await output([...run, ...words], env));
  const images: Images = {
    run: (reference, work) =>
      timeProgram([...run, "run", "--rm", "--network", "none", reference, ...work.argv], {
        ...{ env, expect: work.expect },
      }),
    pull: (reference) => tool("pull", "--quiet", reference),
    forget: (references) => tool("rmi", "--force", ...references),
    diskBytes: () => diskBytes(join(home, "data")),
  };
  const peer: Peer = {
    images,
    name: "docker run",
    cold: (work) =>
      timeProgram([...run, "run", "--rm", "--network", "none", "base:1", ...work.argv], { env, expect: work.expect }),
    stand: async () => {
      const id = await output([...run, "run", "--detach", "--network", "none", "base:1", "sleep", "1000000"], env);
      return standing({
        exec: (argv, { input }) => [...run, "exec", ...(input ? ["-i"] : []), id, ...argv],
        env,
        file: "/tmp/bench-file",
        memory: async () => {
          const inside = await processesOf(id);
          return {
            pssBytes: await pssOf([...inside, ...(await processesNaming(id))]),
            chargedBytes: await chargedTo(inside[0] ?? 0),
          };
        },
        end: async () => void (await output([...run, "rm", "--force", id], env)),
      });
    },
  };
  return { ok: true, peers: [peer] };
}

async function startDaemon(lab: Lab, home: string, dockerd: string, env: NodeJS.ProcessEnv): Promise<ChildProcess> {
  await writeJson(join(home, "daemon.json"), {});
  const log = await open(join(home, "log"), "w");
  const child = spawn(
    dockerd,
    [
      [
        "--data-root",
        join(home, "data"),
        "--exec-root",
        join(home, "exec"),
        "-H",
        `unix://${home}/s`,
        "-p",
        join(home, "pid"),
      ],
      ["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none", "--storage-driver", "overlay2"],
      ["--config-file", join(home, "daemon.json"), "--cgroup-parent", lab.cgroup],
    ].flat(),
    { stdio: ["ignore", log.fd, log.fd], env },
  );
  await log.close();
  lab.defer(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGTERM");
    await Promise.race([ended, sleep(STOP_LIMIT_MS).then(() => child.kill("SIGKILL"))]);
    await ended;
  });
  return child;
}

async function answering(argv: readonly string[], env: NodeJS.ProcessEnv, daemon: ChildProcess): Promise<void> {
  const deadline = performance.now() + START_LIMIT_MS;
  for (;;) {
    try {
      await output(argv, env);
      return;
    } catch (error) {
      if (daemon.exitCode !== null || performance.now() > deadline) throw error;
      await sleep(100);
    }
  }
}
