import { copyFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Lab } from "../lab.ts";
import { chargedTo, diskBytes, processesNaming, processesOf, pssOf } from "../lab.ts";
import type { Images, Peer, Setup, Work } from "../peer.ts";
import { output, timeProgram } from "../timing.ts";
import { standing } from "./command.ts";
import type { Tools } from "./tools.ts";

/** Below this process's own hard limits, so that it needs no CAP_SYS_RESOURCE. */
const ULIMITS = '["nofile=4096:4096","nproc=4096:4096"]';

export async function podman(lab: Lab, tools: Tools, imageTar: string): Promise<Setup> {
  const { podman: program, conmon, crun } = tools.paths;
  if (program === undefined || conmon === undefined || crun === undefined)
    return { ok: false, name: "podman", missing: tools.missing("podman", "conmon", "crun") };
  const home = await lab.path("podman");
  await lab.path("podman", ".config", "containers");
  // Without a policy file podman refuses even an image it imports itself.
  await writeFile(join(home, ".config/containers/policy.json"), '{"default":[{"type":"insecureAcceptAnything"}]}');
  const profile = join(tools.root, "usr/share/containers/seccomp.json");
  const seccomp = join(home, "seccomp.json");
  await copyFile(profile, seccomp).catch(() => copyFile("/usr/share/containers/seccomp.json", seccomp));
  // Podman cleans up by a command that conmon starts, and gives conmon none of the variables that say where libraries are:
  // without them every run waits 20 s for its container's exit code.
  const monitor = join(home, "conmon");
  const libraries = tools.env["LD_LIBRARY_PATH"] ?? "";
  await writeFile(monitor, `#!/bin/sh\nLD_LIBRARY_PATH='${libraries}' exec '${conmon}' "$@"\n`, { mode: 0o755 });
  await writeFile(
    join(home, "containers.conf"),
    `[engine]\nconmon_path=["${monitor}"]\nruntime="crun"\ncgroup_manager="cgroupfs"\nevents_logger="file"\ntmp_dir="${home}/tmp"\n` +
      `[engine.runtimes]\ncrun=["${crun}"]\n[network]\ncni_plugin_dirs=["${join(tools.root, "usr/lib/cni")}","/usr/lib/cni"]\n` +
      `[containers]\ndefault_ulimits=${ULIMITS}\nseccomp_profile="${seccomp}"\n`,
  );
  await writeFile(
    join(home, "storage.conf"),
    `[storage]\ndriver="overlay"\ngraphroot="${home}/graph"\nrunroot="${home}/run"\n`,
  );
  const env = {
    ...tools.env,
    HOME: home,
    CONTAINERS_CONF: join(home, "containers.conf"),
    CONTAINERS_STORAGE_CONF: join(home, "storage.conf"),
  };
  await output([program, "import", imageTar, "localhost/base:1"], env);
  lab.defer(async () => void (await output([program, "rm", "--all", "--force"], env)));
  const run = [program, "run", "--rm", "--network", "none", "--cgroup-parent", lab.cgroup];
  const cold = (work: Work): ReturnType<typeof timeProgram> =>
    timeProgram([...run, "localhost/base:1", ...work.argv], { env, expect: work.expect });
  const peer: Peer = {
    images: imagesOf(program, run, join(home, "graph"), env),
    name: "podman run",
    cold,
    stand: async () => {
      const id = await output([...run, "--detach", "localhost/base:1", "sleep", "1000000"], env);
      return standing({
        exec: (argv, { input }) => [program, "exec", ...(input ? ["-i"] : []), id, ...argv],
        env,
        file: "/tmp/bench-file",
        memory: async () => {
          const inside = await processesOf(id);
          return {
            pssBytes: await pssOf([...inside, ...(await processesNaming(id))]),
            chargedBytes: await chargedTo(inside[0] ?? 0),
          };
        },
        end: async () => void (await output([program, "rm", "--force", "--time", "0", id], env)),
      });
    },
  };
  return { ok: true, peers: [peer] };
}

function imagesOf(program: string, run: readonly string[], graph: string, env: NodeJS.ProcessEnv): Images {
  return {
    run: (reference, work) =>
      timeProgram([...run, "--quiet", "--tls-verify=false", reference, ...work.argv], { env, expect: work.expect }),
    pull: async (reference) => void (await output([program, "pull", "--quiet", "--tls-verify=false", reference], env)),
    forget: async (references) => {
      // Unlike docker it takes an image that is not there for an error.
      for (const one of references) await output([program, "rmi", "--force", one], env).catch(() => undefined);
    },
    diskBytes: () => diskBytes(graph),
  };
}
