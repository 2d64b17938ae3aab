import { join } from "node:path";
import type { Lab } from "../lab.ts";
import type { Peer, Setup } from "../peer.ts";
import { timeProgram } from "../timing.ts";
import { standing } from "./command.ts";

/** A process on the host, with no boundary: the floor. */
export function bare(lab: Lab): Setup {
  // The distribution's own programs, as the image has them, and no version manager's shims.
  const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };
  const peer: Peer = {
    name: "bare process",
    cold: (work) => timeProgram(work.argv, { expect: work.expect, env }),
    stand: async () =>
      standing({
        exec: (argv) => argv,
        env,
        file: join(lab.directory, "bare-file"),
        memory: async () => ({ pssBytes: 0, chargedBytes: Number.NaN }),
        end: async () => undefined,
      }),
  };
  return { ok: true, peers: [peer] };
}

export function bwrap(path: string | null, rootfs: string): Setup {
  if (path === null) return { ok: false, name: "bwrap", missing: "package bubblewrap could not be fetched" };
  const box = [
    path,
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    "--cap-drop",
    "ALL",
    "--ro-bind",
    rootfs,
    "/",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--tmpfs",
    "/tmp",
  ];
  return {
    ok: true,
    peers: [
      { name: "bwrap", cold: (work) => timeProgram([...box, ...work.argv], { expect: work.expect }), stand: null },
    ],
  };
}
