import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { canonicalName, formatAddress, parseAddress, type NetworkPolicy } from "@bulkhead/contract";
import { AddressBook } from "./book.ts";
import { ACCESS_DENIED_ALERT } from "./client-hello.ts";
import { Denials } from "./denials.ts";
import type { Edge } from "./edge.ts";
import {
  MAX_CONNECTIONS,
  type AskedConnection,
  type AskedDatagram,
  type EgressHandler,
  type Refusal,
} from "./guest.ts";
import { HttpGate } from "./http-gate.ts";
import { NameService } from "./name-service.ts";
import type { Outside } from "./outside.ts";
import { isOwnListener } from "./own-listeners.ts";
import { Policy, ruleFor, type Destination, type Refused } from "./policy.ts";
import { ForwardProxy } from "./proxy.ts";
import { Rate, rated } from "./rated.ts";
import { sniff, type Sniffed } from "./sniff.ts";
import { specialBlock } from "./special.ts";
import { reset, splice } from "./splice.ts";
import { UdpFlows } from "./udp.ts";

export interface EgressOptions {
  readonly outside: Outside;
  /** Adds headers to some hosts' requests. */
  readonly edge?: Edge | undefined;
  /** Serves a proxy too. Default: false. */
  readonly proxy?: boolean;
  /** Milliseconds that never go back. */
  readonly now?: () => number;
}

/** A connection that was let through, with what that rested on. */
interface Open {
  readonly destination: Destination;
  /** The names it said; null where its address is allowed by itself. */
  readonly names: Set<string> | null;
  readonly end: () => void;
}

/** What connect(2) says outside, as the program inside is to see it. */
const REFUSALS: Readonly<Record<string, Refusal>> = {
  ECONNREFUSED: "reset",
  ECONNRESET: "reset",
  EACCES: "prohibited",
  EPERM: "prohibited",
};

const BY_NAME_ALONE = { verdict: "deny", rule: null, why: "it is allowed by name alone now, and said none" } as const;

const SHOWN_NAME_CHARS = 80;

/** A program reads why it was refused within this; then the connection is reset. */
const LINGER_MS = 5000;

/** What one sandbox may do outside: judges, resolves, connects, remembers what it denied. */
export class Egress implements EgressHandler {
  readonly denials: Denials;
  readonly proxy?: (connection: Duplex) => void;
  readonly edge: Edge | undefined;
  readonly #outside: Outside;
  readonly #book: AddressBook;
  readonly #names: NameService;
  readonly #http = new HttpGate();
  readonly #rate: Rate;
  readonly #udp: UdpFlows;
  readonly #open = new Set<Open>();
  readonly #over = new AbortController();
  #asked = 0;
  #policy: NetworkPolicy;
  #judge: Policy;

  constructor(policy: NetworkPolicy, { outside, edge, proxy = false, now = () => performance.now() }: EgressOptions) {
    this.edge = edge;
    this.#outside = outside;
    this.denials = new Denials(() => Date.now());
    this.#book = new AddressBook(now);
    this.#rate = new Rate(now);
    this.#udp = new UdpFlows(outside, this.#rate);
    this.#policy = policy;
    this.#judge = this.#compile(policy);
    const { signal } = this.#over;
    const parts = { policy: () => this.#judge, outside, book: this.#book, denials: this.denials, now, signal };
    this.#names = new NameService(parts);
    if (!proxy) return;
    const forward = new ForwardProxy({
      addressesOf: (host, port) => this.#addressesOf(host, port),
      connect: (asked) => this.connect(asked),
    });
    this.proxy = (connection) => forward.take(connection);
  }

  get policy(): NetworkPolicy {
    return this.#policy;
  }

  #compile(policy: NetworkPolicy): Policy {
    this.#rate.set(policy);
    return new Policy(policy, () => this.#outside.ownAddresses());
  }

  /** Holds from now on, also for what is open: connections that would not be let through any more are reset. */
  update(policy: NetworkPolicy): void {
    this.#policy = policy;
    this.#judge = this.#compile(policy);
    for (const open of this.#open) {
      const refused = this.#refusalOf(open);
      if (refused === null) continue;
      this.#note(open.destination, [...(open.names ?? [])][0] ?? null, refused);
      open.end();
    }
    this.#udp.review((address, port) => this.#judge.judge({ address, port, transport: "udp" }, []).verdict === "allow");
  }

  /** Whether what it was let through for is not allowed any more. */
  #refusalOf({ destination, names }: Open): Refused | null {
    const groups =
      names === null ? [[]] : names.size === 0 ? [this.#namesOf(destination)] : [...names].map((name) => [name]);
    for (const group of groups) {
      const verdict = this.#judge.judge(destination, group);
      if (verdict.verdict === "deny") return verdict;
      if (verdict.verdict === "ask-name" && names === null) return { ...BY_NAME_ALONE, allow: ruleFor(destination) };
    }
    return null;
  }

  #namesOf({ address }: Destination): readonly string[] {
    return this.#book.namesOf(formatAddress(address));
  }

  /** Ends everything. */
  close(): void {
    this.#over.abort();
    for (const open of this.#open) open.end();
    this.#udp.review(() => false);
  }

  query(message: Uint8Array, transport: "udp" | "tcp"): Promise<Uint8Array | null> {
    return this.#names.answer(message, transport);
  }

  datagram(asked: AskedDatagram): void {
    const address = parseAddress(asked.address);
    if (address === null || this.#over.signal.aborted) return asked.refuse("unreachable");
    const destination: Destination = { address, port: asked.port, transport: "udp" };
    const names = this.#namesOf(destination);
    const verdict = this.#judge.judge(destination, names);
    if (verdict.verdict === "allow") return void this.#udp.send(asked, address);
    if (verdict.verdict === "deny") this.#note(destination, names.at(-1) ?? null, verdict);
    asked.refuse("prohibited");
  }

  connect(asked: AskedConnection): void {
    const address = parseAddress(asked.address);
    if (address === null || this.#over.signal.aborted || this.#asked >= MAX_CONNECTIONS)
      return asked.refuse("unreachable");
    const destination: Destination = { address, port: asked.port, transport: "tcp" };
    const names = this.#namesOf(destination);
    const verdict = this.#judge.judge(destination, names);
    const refused = verdict.verdict === "deny" ? verdict : this.#ownListener(destination);
    if (refused !== null) {
      this.#note(destination, names.at(-1) ?? null, refused);
      return asked.refuse("prohibited", refused);
    }
    this.#asked++;
    void this.#connect(asked, destination, verdict.verdict === "ask-name").finally(() => this.#asked--);
  }

  #ownListener({ address, port }: Destination): Refused | null {
    if (specialBlock(address, this.#outside.ownAddresses()) === null || !isOwnListener(port)) return null;
    const why = `port ${port} is Bulkhead's own, which no rule opens to a sandbox`;
    return { verdict: "deny", rule: null, why, allow: null };
  }

  /** What a proxy may try for a host: the addresses of a name that is allowed on that port. Others are noted. */
  async #addressesOf(host: string, port: number): Promise<readonly string[] | Refused> {
    if (parseAddress(host) !== null) return [host];
    const name = canonicalName(host);
    const shown = JSON.stringify(host.slice(0, SHOWN_NAME_CHARS));
    const verdict =
      name === null
        ? ({ verdict: "deny", rule: null, why: `${shown} is no name of a host`, allow: null } as const)
        : this.#judge.judgeName(name, port);
    if (verdict.verdict === "deny") {
      this.denials.add({ kind: "tcp", name, port }, verdict);
      return verdict;
    }
    return await this.#names.addressesOf(name!);
  }

  #note({ address, port, transport }: Destination, name: string | null, refused: Refused): void {
    this.denials.add({ kind: transport, name, address: formatAddress(address), port }, refused);
  }

  /** Resolves when the connection is over. */
  async #connect(asked: AskedConnection, destination: Destination, askName: boolean): Promise<void> {
    const { address, port } = destination;
    let upstream: Socket;
    try {
      upstream = await this.#outside.connect(address, port, AbortSignal.any([asked.signal, this.#over.signal]));
    } catch (error) {
      return asked.refuse(REFUSALS[(error as NodeJS.ErrnoException).code ?? ""] ?? "unreachable");
    }
    upstream.on("error", ignore);
    let inside: Duplex;
    try {
      inside = rated(await asked.accept(), this.#rate);
    } catch {
      return reset(upstream);
    }
    const closed = new Promise<void>((resolve) => inside.once("close", resolve));
    const end = (): void => {
      inside.destroy();
      reset(upstream);
    };
    const open: Open = { destination, names: askName ? new Set() : null, end };
    this.#open.add(open);
    try {
      // The policy may have become another while the connection was made.
      if (this.#over.signal.aborted || (!askName && this.#refusalOf(open) !== null)) end();
      else if (askName || this.#maySayEdgeHost(destination)) await this.#admit(inside, upstream, open);
      else splice(inside, upstream);
      await closed;
    } catch {
      // Whatever a sandbox's or a server's bytes bring about ends its connection and nothing else.
      end();
    } finally {
      this.#open.delete(open);
      upstream.destroy();
    }
  }

  /** Nothing the program sends leaves before the name it says is allowed and was given this address. */
  async #admit(inside: Duplex, upstream: Socket, open: Open): Promise<void> {
    const { destination } = open;
    const first = await sniff(inside, upstream);
    if (inside.destroyed || first.kind === "gone") return open.end();
    const host = this.#edgeHost(first, destination);
    // Allowed by its address, it may say what it likes.
    if (open.names === null && host === null) return splice(inside, upstream);
    if (first.kind === "unknown") {
      this.#denyNameless(destination, first.why);
      return open.end();
    }
    if (first.kind === "http") {
      const judge = (name: string): Refused | null => this.#judgeSaid(open, name);
      return this.#http.take(inside, { upstream, judge, deny: (_, why) => this.#denyNameless(destination, why) });
    }
    const refused =
      first.serverName === null
        ? this.#denyNameless(destination, "its TLS names no server")
        : this.#judgeSaid(open, first.serverName);
    if (refused === null && host !== null) return this.#takeToEdge(inside, upstream, open, host);
    if (refused === null) return splice(inside, upstream);
    reset(upstream);
    inside.resume();
    inside.end(ACCESS_DENIED_ALERT);
    const timer = setTimeout(() => inside.destroy(), LINGER_MS);
    inside.once("close", () => clearTimeout(timer));
  }

  /** Whether the sandbox was given this address for a host whose requests get headers. */
  #maySayEdgeHost(destination: Destination): boolean {
    const { edge } = this;
    return edge !== undefined && this.#namesOf(destination).some((name) => edge.concerns(name, destination.port));
  }

  /** The host that a hello names when its requests get headers and the address is its own; else null. */
  #edgeHost(first: Sniffed, destination: Destination): string | null {
    if (this.edge === undefined || first.kind !== "tls" || first.serverName === null) return null;
    const name = canonicalName(first.serverName);
    if (name === null || !this.edge.concerns(name, destination.port)) return null;
    return this.#namesOf(destination).includes(name) ? name : null;
  }

  async #takeToEdge(inside: Duplex, upstream: Socket, open: Open, host: string): Promise<void> {
    const { destination } = open;
    const judge = (name: string): Refused | null => (open.names === null ? null : this.#judgeSaid(open, name));
    const deny = (name: string | null, why: string): Refused => {
      const refused: Refused = { verdict: "deny", rule: null, why, allow: null };
      this.#note(destination, name, refused);
      return refused;
    };
    await this.edge!.take(inside, upstream, host, { judge, deny }, this.#http);
  }

  #denyNameless(destination: Destination, why: string): Refused {
    const refused: Refused = { verdict: "deny", rule: null, why, allow: ruleFor(destination) };
    this.#note(destination, this.#namesOf(destination).at(-1) ?? null, refused);
    return refused;
  }

  /** Judges a name said on a connection, and remembers that it was said. */
  #judgeSaid(open: Open, said: string): Refused | null {
    const { destination } = open;
    const name = canonicalName(said);
    if (name === null) {
      const shown = JSON.stringify(said.slice(0, SHOWN_NAME_CHARS));
      return this.#denyNameless(destination, `it names ${shown}, which no host is called`);
    }
    const refused = this.#refusalOfName(destination, name);
    if (refused === null) open.names?.add(name);
    else this.#note(destination, name, refused);
    return refused;
  }

  #refusalOfName(destination: Destination, name: string): Refused | null {
    const allowed = this.#judge.judgeName(name, destination.port);
    if (allowed.verdict === "deny") return allowed;
    const text = formatAddress(destination.address);
    if (!this.#namesOf(destination).includes(name)) {
      const why = `the connection goes to ${text}, which is no address that was resolved for ${name}`;
      return { verdict: "deny", rule: null, why, allow: ruleFor(destination) };
    }
    const verdict = this.#judge.judge(destination, [name]);
    return verdict.verdict === "deny" ? verdict : null;
  }
}

function ignore(): void {}
