import {
  BulkheadError,
  parsePolicy,
  parseSecrets,
  type NetworkPolicy,
  type Secret,
  type SpecInput,
} from "@bulkhead/contract";
import type { Denial, DenialListener } from "./denials.ts";
import type { Egress } from "./egress.ts";

/** The network of one sandbox, as its holder sees it. */
export class Network {
  readonly #egress: Egress | null;

  /** @param egress null for a sandbox that has no network. */
  constructor(egress: Egress | null) {
    this.#egress = egress;
  }

  /** What may leave, as it is now. */
  get policy(): "none" | NetworkPolicy {
    return this.#egress?.policy ?? "none";
  }

  /**
   * Replaces the policy, rate included. It holds when this returns: connections that it does not allow have been reset.
   * @throws BulkheadError SPEC_INVALID for a policy that is none, NETWORK_NONE where the sandbox was made without a network.
   */
  update(policy: Exclude<SpecInput["network"], "none" | undefined>): void {
    const parsed = parsePolicy(policy);
    if (this.#egress === null) {
      throw new BulkheadError("NETWORK_NONE", { what: "the network of this sandbox cannot be changed" });
    }
    this.#egress.update(parsed);
  }

  /**
   * Puts another value in the place of one that the sandbox was started with, say a token that was renewed. Requests from now on
   * have it.
   * @throws BulkheadError SPEC_INVALID, never showing the value, also where no such header was asked for at the start.
   */
  replaceSecret(secret: Secret): void {
    const [parsed] = parseSecrets([secret], "secrets");
    if (this.#egress?.edge === undefined) {
      throw new BulkheadError("SPEC_INVALID", {
        what: `no header ${parsed!.header} is added for ${parsed!.host}`,
        why: "the sandbox was started without secrets",
        next: "start a sandbox with this secret",
      });
    }
    this.#egress.edge.replace(parsed!);
  }

  /** The last 256 distinct things that were tried and not let through, oldest first. */
  denials(): readonly Denial[] {
    return this.#egress?.denials.list() ?? [];
  }

  /** Tells each distinct denial when it happens first; of a flood only a part, `denials` counts all. */
  onDenial(listener: DenialListener): Disposable {
    return this.#egress?.denials.listen(listener) ?? { [Symbol.dispose]: () => undefined };
  }
}
