import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { SecureContext, TLSSocket } from "node:tls";
import { BulkheadError, type Secret } from "@bulkhead/contract";
import { Authority } from "./authority.ts";
import type { Dress, Headers, HttpGate } from "./http-gate.ts";
import type { Outside } from "./outside.ts";
import type { Refused } from "./policy.ts";

/** Where HTTP over TLS is served. Elsewhere nothing is added. */
const HTTPS_PORT = 443;
/** An emulated, busy guest takes seconds for a handshake; servers give up after about as long. */
const HANDSHAKE_MS = 60_000;
/** What both sides are offered: requests are read and written by the strict parser, which speaks this alone. */
const ALPN = ["http/1.1"];
const TLS_MIN = "TLSv1.2";

type Tls = typeof import("node:tls");

/** How a program says that it does not know our authority; some only break off, which no code of OpenSSL says. */
const DISTRUST: ReadonlySet<string> = new Set([
  "ERR_SSL_TLSV1_ALERT_UNKNOWN_CA",
  "ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE",
  "ERR_SSL_SSLV3_ALERT_CERTIFICATE_UNKNOWN",
]);

/** How what happens on one connection is judged and told. */
export interface EdgeFlow {
  /** Judges the name of a request as on every connection. */
  judge(name: string): Refused | null;
  /** Notes what is refused for a reason that no rule can change. */
  deny(name: string | null, why: string): Refused;
}

/** `_` and `-` are one to servers that hand headers on as variables. */
const sameName = (name: string): string => name.toLowerCase().replaceAll("_", "-");

function codeOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  return code ?? message;
}

/**
 * Adds headers to requests for some hosts, so that what is in them never enters the sandbox: TLS with these hosts ends here, under
 * an authority that this sandbox alone trusts, and begins anew towards the server, whose certificate is checked against what this
 * host trusts. Everything else stays end to end.
 */
export class Edge {
  readonly #tls: Tls;
  readonly #authority: Authority;
  /** By host, then by header. */
  readonly #secrets: ReadonlyMap<string, Map<string, Secret>>;
  readonly #trusted: SecureContext;

  private constructor(tls: Tls, authority: Authority, secrets: readonly Secret[], trusted: readonly string[]) {
    this.#tls = tls;
    this.#authority = authority;
    const byHost = Map.groupBy(secrets, ({ host }) => host);
    this.#secrets = new Map([...byHost].map(([host, all]) => [host, new Map(all.map((one) => [one.header, one]))]));
    // Reading some hundred certificates takes 20 ms, so they are read once for all connections.
    this.#trusted = tls.createSecureContext({ ca: [...trusted], minVersion: TLS_MIN });
  }

  static async make(secrets: readonly Secret[], outside: Pick<Outside, "authorities">): Promise<Edge> {
    const hosts = [...new Set(secrets.map(({ host }) => host))];
    // What is imported at the top of a file every run of the command loads, and this takes as long as all the rest of it.
    const [tls, authority] = await Promise.all([import("node:tls"), Authority.make(hosts)]);
    return new Edge(tls, authority, secrets, outside.authorities?.() ?? hostAuthorities(tls));
  }

  /** What programs inside have to trust, in PEM. */
  get certificate(): string {
    return this.#authority.certificate;
  }

  /** Whether connections to that port for that host end here. */
  concerns(host: string, port: number): boolean {
    return port === HTTPS_PORT && this.#secrets.has(host);
  }

  /**
   * Puts another value in the place of one that was given: requests from now on have it.
   * @throws BulkheadError SPEC_INVALID where there is none.
   */
  replace({ host, header, value }: Secret): void {
    const known = this.#secrets.get(host);
    if (known?.has(header) !== true) {
      throw new BulkheadError("SPEC_INVALID", {
        what: `no header ${header} is added for ${host}`,
        why: "what programs have to trust for it is decided when the sandbox starts",
        next: "start a sandbox with this secret",
      });
    }
    known.set(header, { host, header, value });
  }

  /**
   * Takes a connection over that a program began with a hello for `host`; its server is connected and nothing was said yet.
   * It ends with either side.
   */
  async take(inside: Duplex, upstream: Socket, host: string, flow: EdgeFlow, gate: HttpGate): Promise<void> {
    let server: TLSSocket | null = null;
    let refused: Refused | null = null;
    try {
      server = await this.#greetServer(host, upstream);
    } catch (error) {
      if (inside.destroyed) return void upstream.destroy();
      refused = flow.deny(host, `the server of ${host} could not be verified or spoken to: ${codeOf(error)}`);
      upstream.destroy();
    }
    const deny: EdgeFlow["deny"] = (name, why) => flow.deny(name, why);
    const judge = (name: string): Refused | null => refused ?? this.#judge(host, name, flow);
    const taken = { upstream: server ?? upstream, judge, deny, dress: this.#dress(host) };
    const leaf = await this.#authority.leaf(host);
    if (inside.destroyed) return void taken.upstream.destroy();
    const listener = this.#tls.createServer({
      ...leaf,
      ALPNProtocols: ALPN,
      minVersion: TLS_MIN,
      handshakeTimeout: HANDSHAKE_MS,
    });
    // The gate listens in the same turn: the first request may have come with the handshake's last bytes.
    listener.once("secureConnection", (program) => {
      // While an upgrade is under way nobody else listens.
      program.on("error", ignore);
      // After a last answer the server side would reset the connection, with what is still on its way inside.
      program.destroySoon = () => void program.end();
      gate.take(program, taken);
    });
    listener.once("tlsClientError", (error) => {
      this.#distrusted(host, codeOf(error), flow);
      inside.destroy();
      taken.upstream.destroy();
    });
    listener.emit("connection", inside);
  }

  #judge(host: string, name: string, flow: EdgeFlow): Refused | null {
    if (name === host) return flow.judge(name);
    return flow.deny(name, `the connection is for ${host}, and a request on it names ${name}`);
  }

  /** Resolves when its certificate was found to be that of `host`. */
  async #greetServer(host: string, upstream: Socket): Promise<TLSSocket> {
    const secureContext = this.#trusted;
    const server = this.#tls.connect({ socket: upstream, servername: host, secureContext, ALPNProtocols: ALPN });
    const greeted = Promise.withResolvers<void>();
    server.once("secureConnect", greeted.resolve);
    server.once("error", greeted.reject);
    server.once("close", () => greeted.reject(new Error("it closed the connection")));
    const timer = setTimeout(() => server.destroy(new Error("its handshake takes too long")), HANDSHAKE_MS);
    try {
      await greeted.promise;
    } finally {
      clearTimeout(timer);
      server.on("error", ignore);
    }
    return server;
  }

  #distrusted(host: string, code: string, flow: EdgeFlow): void {
    const why =
      DISTRUST.has(code) || !code.startsWith("ERR_SSL")
        ? `a program broke its TLS to ${host} off, as those do that do not trust the edge of this sandbox, where it ends`
        : code === "ERR_SSL_NO_APPLICATION_PROTOCOL"
          ? `a program does not speak HTTP/1.1 to ${host}, which headers are added to`
          : `a program's TLS to ${host}, whose requests get headers, failed: ${code}`;
    flow.deny(host, why);
  }

  #dress(host: string): Dress {
    const secrets = this.#secrets.get(host)!;
    const added = new Set([...secrets.keys()].map(sameName));
    return {
      headers: (given: Headers) => [
        ...given.filter(([name]) => !added.has(sameName(name))),
        ...[...secrets.values()].map(({ header, value }) => [header, value] as const),
      ],
      allowsTrailer: (name) => !added.has(sameName(name)),
    };
  }
}

/** What OpenSSL's directories on this host hold, and what its operator added for Node.js. */
function hostAuthorities({ getCACertificates }: Tls): readonly string[] {
  const system = getCACertificates("system");
  return [...(system.length > 0 ? system : getCACertificates("bundled")), ...getCACertificates("extra")];
}

function ignore(): void {}
