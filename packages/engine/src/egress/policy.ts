import {
  allPorts,
  contains,
  formatAddress,
  formatRule,
  matchesName,
  parseRule,
  type Address,
  type NetworkPolicy,
  type NetworkRule,
  type Transport,
} from "@bulkhead/contract";
import { opens, specialBlock } from "./special.ts";

/** Where a connection or datagram wants to go. */
export interface Destination {
  readonly address: Address;
  readonly port: number;
  readonly transport: Transport;
}

export interface Refused {
  readonly verdict: "deny";
  /** The rule that denies, or null when none allows. */
  readonly rule: string | null;
  /** One clause for people. */
  readonly why: string;
  /** A rule that would allow it, or null when none can. */
  readonly allow: string | null;
}

export type Verdict =
  | { readonly verdict: "allow"; readonly rule: string }
  /** The address was given for names that are allowed: the connection has to say which it means, and is judged again. */
  | { readonly verdict: "ask-name" }
  | Refused;

export interface NameAllowed {
  readonly verdict: "allow";
  readonly rule: string;
  /** Allowed by a rule of its own, not by `*`. */
  readonly named: boolean;
  /** Characters of the name that are the sandbox's choice: what a wildcard stands for. */
  readonly chosen: number;
}

export type NameVerdict = NameAllowed | Refused;

type Compiled = NetworkRule & { readonly text: string };

function compile(texts: readonly string[]): readonly Compiled[] {
  return texts.map((text) => ({ ...parseRule(text, "network"), text }));
}

function coversPort({ ports }: Compiled, port: number): boolean {
  return port >= ports.first && port <= ports.last;
}

/** Rules that do not say are about TCP when they allow, about both when they deny. */
const allowsOver = (rule: Compiled, transport: Transport): boolean => (rule.transport ?? "tcp") === transport;
const deniesOver = (rule: Compiled, transport: Transport): boolean => (rule.transport ?? transport) === transport;

/** @returns the rule for exactly this destination, as it is written in a policy. */
export function ruleFor({ address, port, transport }: Destination): string {
  const range = { family: address.family, base: address.value, prefix: address.family === 4 ? 32 : 128 };
  const rule = { kind: "range", range, ports: { first: port, last: port } } as const;
  return formatRule({ ...rule, transport: transport === "udp" ? "udp" : null });
}

/**
 * A policy made ready for judging. Of the rules that match, one that allows beats one that denies, and `*` comes last:
 * it is what holds for what no other rule names. Addresses that are not public are allowed only by a rule that names them.
 */
export class Policy {
  readonly #allow: readonly Compiled[];
  readonly #deny: readonly Compiled[];
  readonly #rest: readonly Compiled[];
  /** Where a name is denied, `*` lets through only what says its name: by address the denial could be walked around. */
  readonly #namesOnly: boolean;
  readonly #own: () => readonly Address[];

  /** @param own the host's own addresses, asked at every judgement: they change. */
  constructor(policy: NetworkPolicy, own: () => readonly Address[]) {
    const allow = compile(policy.allow);
    this.#allow = allow.filter(({ kind }) => kind !== "any");
    this.#rest = allow.filter(({ kind }) => kind === "any");
    // `*` for every port denies nothing: it says what holds where nothing is said.
    this.#deny = compile(policy.deny).filter(({ kind, ports }) => kind !== "any" || !allPorts(ports));
    this.#namesOnly = this.#deny.some(({ kind }) => kind === "domain");
    this.#own = own;
  }

  /** @param names allowed or not, those for which the sandbox was given this address. */
  judge(destination: Destination, names: readonly string[]): Verdict {
    const { address, port, transport } = destination;
    const allow = ruleFor(destination);
    const block = specialBlock(address, this.#own());
    const fits = (rule: Compiled): boolean =>
      rule.kind === "range" && coversPort(rule, port) && contains(rule.range, address);
    const range = this.#allow.find(
      (rule) =>
        rule.kind === "range" &&
        allowsOver(rule, transport) &&
        fits(rule) &&
        (block === null || opens(rule.range, block)),
    );
    if (range !== undefined) return { verdict: "allow", rule: range.text };
    const shown = formatAddress(address);
    if (block !== null) {
      const why = `${shown} is ${block.what}, which only a rule that names it by address allows`;
      return { verdict: "deny", rule: null, why, allow };
    }
    const denial = this.#deny.find(
      (rule) => deniesOver(rule, transport) && (fits(rule) || (rule.kind === "any" && coversPort(rule, port))),
    );
    const rest = this.#rest.find((rule) => allowsOver(rule, transport) && coversPort(rule, port));
    if (denial === undefined && rest !== undefined && !this.#namesOnly) return { verdict: "allow", rule: rest.text };
    const verdicts = transport === "udp" ? [] : names.map((name) => this.judgeName(name, port));
    if (verdicts.some((one) => one.verdict === "allow" && one.named)) return { verdict: "ask-name" };
    if (denial !== undefined) {
      return { verdict: "deny", rule: denial.text, why: `${shown} port ${port} is denied by ${denial.text}`, allow };
    }
    if (rest === undefined) return this.#refuse(destination, names, allow);
    if (verdicts.some(({ verdict }) => verdict === "allow")) return { verdict: "ask-name" };
    const why = `${rest.text} lets through only what says its name while a name is denied, and this has none`;
    return { verdict: "deny", rule: null, why, allow };
  }

  #refuse({ address, port, transport }: Destination, names: readonly string[], byAddress: string): Refused {
    const shown = formatAddress(address);
    const name = names[0];
    if (name === undefined) {
      const why = `no rule allows ${transport === "udp" ? "UDP to " : ""}${shown} port ${port}, and no allowed name was resolved to it`;
      return { verdict: "deny", rule: null, why, allow: byAddress };
    }
    if (transport === "udp") {
      const why = `UDP is allowed by address alone, and no rule allows ${shown} (${name}) port ${port}`;
      return { verdict: "deny", rule: null, why, allow: byAddress };
    }
    const allow = `${name}:${port}`;
    return { verdict: "deny", rule: null, why: `no rule allows port ${port} of ${name}`, allow };
  }

  /**
   * @param name in canonical form.
   * @param port null for a question to the resolver, which is answered when any port is allowed.
   */
  judgeName(name: string, port: number | null): NameVerdict {
    const fits = (rule: Compiled): boolean => port === null || coversPort(rule, port);
    const named = this.#allow.find((rule) => rule.kind === "domain" && matchesName(rule, name) && fits(rule));
    if (named?.kind === "domain") {
      return { verdict: "allow", rule: named.text, named: true, chosen: name.length - named.domain.length };
    }
    const allow = port === null ? name : `${name}:${port}`;
    // A name of which only some ports are denied has an address for the others.
    const denial = this.#deny.find(
      (rule) =>
        rule.kind === "domain" && matchesName(rule, name) && (port === null ? allPorts(rule.ports) : fits(rule)),
    );
    if (denial !== undefined) {
      return { verdict: "deny", rule: denial.text, why: `${name} is denied by ${denial.text}`, allow };
    }
    const rest = this.#rest.find((rule) => allowsOver(rule, "tcp") && fits(rule));
    if (rest !== undefined) return { verdict: "allow", rule: rest.text, named: false, chosen: name.length };
    return { verdict: "deny", rule: null, why: `no rule allows ${allow}`, allow };
  }

  /** Whether an address may be given for a name that is allowed: on some port it can be reached. @returns why not. */
  judgeAnswer(name: string, address: Address): Refused | null {
    const block = specialBlock(address, this.#own());
    const fits = (rule: Compiled): boolean => rule.kind === "range" && contains(rule.range, address);
    const opened = this.#allow.some((r) => r.kind === "range" && fits(r) && (block === null || opens(r.range, block)));
    if (opened) return null;
    const shown = formatAddress(address);
    if (block !== null) {
      const why = `${name} has the address ${shown}, ${block.what}, which only a rule that names it by address allows`;
      return { verdict: "deny", rule: null, why, allow: shown };
    }
    const verdict = this.judgeName(name, null);
    if (verdict.verdict === "deny") return verdict;
    const denial = verdict.named ? undefined : this.#deny.find((rule) => fits(rule) && allPorts(rule.ports));
    if (denial === undefined) return null;
    const why = `${name} has the address ${shown}, which ${denial.text} denies`;
    return { verdict: "deny", rule: denial.text, why, allow: name };
  }
}
