import { join } from "node:path";
import { output } from "../timing.ts";

/** The peers' programs, as peers.sh found or unpacked them. */
export interface Tools {
  readonly paths: Readonly<Record<string, string | undefined>>;
  /** Where packages were unpacked. */
  readonly root: string;
  /** For running them: their libraries and helpers are not where the system looks. */
  readonly env: NodeJS.ProcessEnv;
  missing(...names: readonly string[]): string;
}

export async function findTools(directory: string, environment: NodeJS.ProcessEnv): Promise<Tools> {
  const lines = (await output([join(import.meta.dirname, "..", "peers.sh"), directory])).split("\n");
  const paths: Record<string, string> = {};
  const reasons: Record<string, string> = {};
  for (const line of lines) {
    const [name, rest] = [line.slice(0, line.indexOf(" ")), line.slice(line.indexOf(" ") + 1)];
    if (rest.startsWith("/")) paths[name] = rest;
    else reasons[name] = rest.replace("missing: ", "");
  }
  const root = join(directory, "root");
  const env = {
    ...environment,
    PATH: `${root}/usr/bin:${root}/usr/sbin:${environment["PATH"] ?? "/usr/bin:/bin"}:/usr/sbin:/sbin`,
    LD_LIBRARY_PATH: `${root}/usr/lib/x86_64-linux-gnu`,
  };
  return {
    paths,
    root,
    env,
    missing: (...names) =>
      names
        .filter((n) => paths[n] === undefined)
        .map((n) => `${n} (${reasons[n] ?? "not looked for"})`)
        .join(", "),
  };
}
