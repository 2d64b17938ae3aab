import type { NetworkPolicy } from "@bulkhead/contract";
import { Egress } from "./egress.ts";
import type { EgressHandler } from "./guest.ts";
import { Network } from "./network.ts";
import { HostOutside, type Outside } from "./outside.ts";

/** What stands between one sandbox and the outside, for the agent's side and for the sandbox's holder. */
export interface WayOut extends Disposable {
  readonly handler: EgressHandler;
  readonly network: Network;
}

/** @param outside default: this host, with `resolvers` or those of its /etc/resolv.conf. */
export function makeWayOut(policy: NetworkPolicy, resolvers: readonly string[], outside?: Outside): WayOut {
  const egress = new Egress(policy, { outside: outside ?? new HostOutside(resolvers) });
  return { handler: egress, network: new Network(egress), [Symbol.dispose]: () => egress.close() };
}

/** Without a judge: a handler that answers as it likes. */
export function handlerAlone(handler: EgressHandler): WayOut {
  return { handler, network: new Network(null), [Symbol.dispose]: () => undefined };
}
