import { BulkheadError, type Plan, type Secret, type Spec } from "@bulkhead/contract";
import { GUEST_ADDRESSES, PROXY_PORT } from "../egress/guest.ts";
import { Policy } from "../egress/policy.ts";
import { TRUST_VARIABLES } from "../egress/trust.ts";

const PROXY = `http://${GUEST_ADDRESSES.resolver}:${PROXY_PORT}`;
const PROXY_VARIABLES: Readonly<Record<string, string>> = Object.fromEntries(
  [
    ["HTTP_PROXY", PROXY],
    ["HTTPS_PROXY", PROXY],
    ["ALL_PROXY", PROXY],
    ["NO_PROXY", "localhost,127.0.0.1,::1"],
  ].flatMap(([name = "", value = ""]) => [
    [name, value],
    [name.toLowerCase(), value],
  ]),
);

/** Where HTTP over TLS is served. */
const HTTPS_PORT = 443;

type EdgeSpec = Pick<Spec, "network" | "secrets" | "proxyVariables">;

/**
 * Whether what is asked of the edge can be done under the policy.
 * @throws BulkheadError SPEC_INVALID naming the field; no value of a secret is in it.
 */
export function checkEdge({ network, secrets = [], proxyVariables = false }: EdgeSpec): void {
  const refuse = (field: string, what: string, why: string, next: string): never => {
    throw new BulkheadError("SPEC_INVALID", { what, why, next, details: { field } });
  };
  if (network === "none") {
    const field = secrets.length > 0 ? "secrets" : proxyVariables ? "proxyVariables" : null;
    if (field === null) return;
    return refuse(
      field,
      `${field} is given without a network`,
      "nothing leaves this sandbox",
      "allow what is to be reached",
    );
  }
  const policy = new Policy(network, () => []);
  for (const [i, { host, header }] of secrets.entries()) {
    const verdict = policy.judgeName(host, HTTPS_PORT);
    if (verdict.verdict === "allow") continue;
    const field = `secrets[${i}]`;
    refuse(field, `the header ${header} for ${host} could never be added`, verdict.why, `allow ${host}:${HTTPS_PORT}`);
  }
}

/** The plan with what the edge does in it, and the variables by which programs learn of it. Those that the caller set stay. */
export function withEdge(
  plan: Plan,
  { secrets = [], proxyVariables = false, env }: EdgeSpec & Pick<Spec, "env">,
): Plan {
  const places = secrets.map(({ host, header }: Secret) => ({ host, header }));
  const told = { ...(places.length > 0 && TRUST_VARIABLES), ...(proxyVariables && PROXY_VARIABLES) };
  return {
    ...plan,
    ...(places.length > 0 && { secrets: places }),
    ...(proxyVariables && { proxyVariables }),
    process: { ...plan.process, env: { ...plan.process.env, ...told, ...env } },
  };
}
