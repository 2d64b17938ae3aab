import type { Step } from "@bulkhead/contract";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import type { Lab } from "../lab.ts";
import { chargedTo, processesNaming, processesOf, pssOf, writeJson } from "../lab.ts";
import type { Peer, Standing, Work } from "../peer.ts";
import type { Root } from "../rootfs.ts";
import { output, timeProgram } from "../timing.ts";
import { standing } from "./command.ts";

/** The part of an OCI runtime configuration that the bench changes; the rest goes through as it is. */
export interface OciConfig {
  readonly process: { readonly args: readonly string[] };
  readonly root: { readonly path: string; readonly readonly?: boolean };
  readonly mounts: readonly { readonly source?: string }[];
  readonly linux: {
    readonly cgroupsPath?: string;
    readonly namespaces: readonly { readonly type: string; readonly path?: string }[];
    readonly uidMappings?: readonly unknown[];
    readonly gidMappings?: readonly unknown[];
  };
}

/** The image is not shifted here, so that the first id of the range is the host's own. */
const IDS = [{ containerID: 0, hostID: 0, size: 65_536 }];

/** A user namespace that the keeper has made before is one the runtime makes here by itself. */
function ownNamespaces(linux: OciConfig["linux"]): OciConfig["linux"] {
  const namespaces = linux.namespaces.map(({ type }) => ({ type }));
  return { ...linux, namespaces, uidMappings: IDS, gidMappings: IDS };
}

export interface Runtime {
  /** Row of the table. */
  readonly name: string;
  /** The program and its flags, without root directory and verb. */
  readonly command: readonly string[];
  readonly config: OciConfig;
  /** Files that mounts show, by the path they are mounted from. */
  readonly files: ReadonlyMap<string, string>;
  readonly env?: NodeJS.ProcessEnv;
}

/** The configuration and the command our own driver would use, taken from its steps. */
export function borrow(steps: readonly Step[]): Pick<Runtime, "config" | "command" | "files"> {
  const file = steps.find((step) => step.op === "file" && step.path.endsWith("/config.json"));
  const run = steps.findLast((step) => step.op === "run");
  if (file?.op !== "file" || run?.op !== "run") throw new Error("the driver's steps hold no OCI configuration");
  const verb = run.argv.indexOf("run");
  const flags = run.argv
    .slice(0, verb)
    .filter((word, i, all) => word !== "--root" && all[i - 1] !== "--root" && !word.startsWith("--root="));
  const files = new Map(steps.flatMap((step) => (step.op === "file" ? [[step.path, step.content]] : [])));
  return { config: JSON.parse(file.content) as OciConfig, command: flags, files };
}

/** The files that mounts show are written beside the bundle's configuration. */
async function mountsFrom(bundle: string, { config, files }: Runtime): Promise<readonly unknown[]> {
  const made = config.mounts.map(async (mount) => {
    const content = files.get(mount.source ?? "");
    if (mount.source === undefined || content === undefined) return mount;
    const source = join(bundle, basename(mount.source));
    await writeFile(source, content);
    return { ...mount, source };
  });
  return await Promise.all(made);
}

/** An OCI runtime run by hand with exactly the configuration our driver gives it. */
export function ociPeer(lab: Lab, makeRoot: () => Promise<Root>, runtime: Runtime): Peer {
  const env = runtime.env === undefined ? {} : { env: runtime.env };
  const bundle = async (id: string, root: Root, argv: readonly string[]): Promise<string> => {
    const path = await lab.path("bundles", id);
    const { config } = runtime;
    await writeJson(join(path, "config.json"), {
      ...config,
      process: { ...config.process, args: argv },
      root: { ...config.root, path: root.path },
      mounts: await mountsFrom(path, runtime),
      linux: { ...ownNamespaces(config.linux), cgroupsPath: join(lab.cgroup, id) },
    });
    await mkdir(join(path, "state"), { recursive: true });
    return path;
  };
  const flags = (path: string): string[] => [...runtime.command, "--root", join(path, "state")];
  return {
    name: runtime.name,
    cold: async (work: Work) => {
      const id = lab.id();
      await using root = await makeRoot();
      const path = await bundle(id, root, work.argv);
      try {
        return await timeProgram([...flags(path), "run", "--bundle", path, id], { ...env, expect: work.expect });
      } finally {
        await rm(path, { recursive: true, force: true });
      }
    },
    stand: async (): Promise<Standing> => {
      const id = lab.id();
      const root = await makeRoot();
      const path = await bundle(id, root, ["/bin/sleep", "1000000"]);
      const end = async (): Promise<void> => {
        await output([...flags(path), "delete", "--force", id], runtime.env);
        await root[Symbol.asyncDispose]();
        await rm(path, { recursive: true, force: true });
      };
      lab.defer(() => end().catch(() => undefined));
      await startDetached([...flags(path), "run", "--detach", "--bundle", path, id], runtime.env);
      return standing({
        exec: (argv) => [...flags(path), "exec", id, ...argv],
        ...env,
        file: "/tmp/bench-file",
        memory: async () => {
          const inside = await processesOf(`${lab.cgroup}/${id}`);
          return {
            pssBytes: await pssOf([...inside, ...(await processesNaming(id))]),
            chargedBytes: await chargedTo(inside[0] ?? 0),
          };
        },
        end,
      });
    },
  };
}

/** The container inherits the runtime's streams; pipes would stay open, and reading them would never end. */
async function startDetached(argv: readonly string[], env: NodeJS.ProcessEnv | undefined): Promise<void> {
  await output(["/bin/sh", "-c", '"$@" < /dev/null > /dev/null 2> /dev/null', "sh", ...argv], env);
}
