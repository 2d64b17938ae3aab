import type { MountPlan, NetworkPolicy, Secret } from "@bulkhead/contract";
import type { Files } from "../sandbox/files.ts";
import { Egress } from "./egress.ts";
import type { EgressHandler } from "./guest.ts";
import { Network } from "./network.ts";
import { HostOutside, type Outside } from "./outside.ts";

/** What stands between one sandbox and the outside, for the agent's side and for the sandbox's holder. */
export interface WayOut extends Disposable {
  readonly handler: EgressHandler;
  readonly network: Network;
  /** What programs have to find in the sandbox before the first of them starts. */
  readonly prepare?: (files: Files, signal: AbortSignal | undefined) => Promise<void>;
}

export interface WayOutOptions {
  readonly policy: NetworkPolicy;
  readonly resolvers: readonly string[];
  /** Default: this host, with `resolvers` or those of its /etc/resolv.conf. */
  readonly outside?: Outside | undefined;
  readonly secrets: readonly Secret[];
  /** Serves a proxy too. */
  readonly proxy: boolean;
  /** Of the image, and what is mounted over it. */
  readonly rootfs: string;
  readonly mounts: readonly MountPlan[];
}

export async function makeWayOut(options: WayOutOptions): Promise<WayOut> {
  const { policy, secrets, proxy } = options;
  const outside: Outside = options.outside ?? new HostOutside(options.resolvers);
  if (secrets.length === 0) return wayOut(new Egress(policy, { outside, proxy }));
  // Certificates take 60 ms to learn how to make, which only a sandbox with secrets pays.
  const [{ Edge }, { installTrust, trustFiles }] = await Promise.all([import("./edge.ts"), import("./trust.ts")]);
  const edge = await Edge.make(secrets, outside);
  const files = await trustFiles(options.rootfs, options.mounts, edge.certificate);
  return {
    ...wayOut(new Egress(policy, { outside, proxy, edge })),
    prepare: (inside, signal) => installTrust(inside, files, signal),
  };
}

function wayOut(egress: Egress): WayOut {
  return { handler: egress, network: new Network(egress), [Symbol.dispose]: () => egress.close() };
}

/** Without a judge: a handler that answers as it likes. */
export function handlerAlone(handler: EgressHandler): WayOut {
  return { handler, network: new Network(null), [Symbol.dispose]: () => undefined };
}
