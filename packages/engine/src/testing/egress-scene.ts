import { parsePolicy, type NetworkPolicy, type Secret } from "@bulkhead/contract";
import { Edge } from "../egress/edge.ts";
import { Egress } from "../egress/egress.ts";
import { FakeInternet } from "./fake-internet.ts";
import { HandMadeGuest } from "./hand-made-guest.ts";

export interface Scene extends AsyncDisposable {
  readonly net: FakeInternet;
  readonly egress: Egress;
  readonly guest: HandMadeGuest;
  update(policy: Partial<NetworkPolicy>): void;
}

export interface SceneOptions {
  readonly secrets?: readonly Secret[];
  readonly proxy?: boolean;
  /** What servers are checked against, in PEM. */
  readonly trusted?: readonly string[];
}

/** @param now a clock of the test's own, in milliseconds. @returns a guest with a policy before an Internet in which nothing is yet. */
export async function scene(
  policy: Partial<NetworkPolicy>,
  now?: () => number,
  { secrets, proxy = false, trusted = [] }: SceneOptions = {},
): Promise<Scene> {
  const net = new FakeInternet();
  net.trusted.push(...trusted);
  const edge = secrets === undefined ? undefined : await Edge.make(secrets, net);
  const egress = new Egress(parsePolicy(policy), { outside: net, edge, proxy, ...(now && { now }) });
  const guest = await HandMadeGuest.make(egress);
  const end = async (): Promise<void> => {
    egress.close();
    await guest[Symbol.asyncDispose]();
    await net[Symbol.asyncDispose]();
  };
  return { net, egress, guest, update: (next) => egress.update(parsePolicy(next)), [Symbol.asyncDispose]: end };
}
