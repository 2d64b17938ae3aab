import { canonicalName, formatAddress, parseAddress, type Address } from "@bulkhead/contract";
import type { AddressBook } from "./book.ts";
import { Bucket } from "./bucket.ts";
import type { Denials } from "./denials.ts";
import {
  CLASS_IN,
  EXTENDED,
  RCODE,
  readQuestion,
  TYPE,
  writeAnswer,
  writeFormatError,
  type Answer,
  type Question,
} from "./dns-message.ts";
import type { Outside, Resolved } from "./outside.ts";
import type { Policy, Refused } from "./policy.ts";

export interface NameServiceParts {
  readonly policy: () => Policy;
  readonly outside: Outside;
  readonly book: AddressBook;
  readonly denials: Denials;
  readonly now: () => number;
  /** Aborted when the sandbox is no more. */
  readonly signal: AbortSignal;
}

/**
 * Where a wildcard lets a sandbox choose the name, each question carries its choice to whoever serves that domain. That cannot
 * be prevented, only made slow: names of clouds' load balancers and buckets are shorter than this, and an install asks for
 * some dozen names.
 */
const CHOSEN_MAX_CHARS = 128;
const CHOSEN_BURST = 512;
const CHOSEN_PER_SECOND = 20;

/** Bounds of what is remembered and told: a large answer has some dozen addresses. */
const MAX_CACHED = 1024;
const MAX_ADDRESSES = 32;
const MAX_TTL_S = 300;
const NEGATIVE_TTL_S = 5;

interface Cached {
  readonly until: number;
  readonly found: readonly Resolved[] | null;
}

type Looked = { readonly found: readonly Resolved[] | null } | { readonly failed: true };

/** The resolver of one sandbox: answers for the names its policy allows, and remembers which addresses it gave for them. */
export class NameService {
  readonly #parts: NameServiceParts;
  readonly #chosen: Bucket;
  readonly #cache = new Map<string, Cached>();
  readonly #running = new Map<string, Promise<Looked>>();

  constructor(parts: NameServiceParts) {
    this.#parts = parts;
    this.#chosen = new Bucket(CHOSEN_PER_SECOND, CHOSEN_BURST, parts.now);
  }

  /** @returns the answer; null for what is no question. Never rejects. */
  async answer(message: Uint8Array, transport: "udp" | "tcp"): Promise<Buffer | null> {
    const question = readQuestion(message);
    if (question === null) return null;
    if ("malformed" in question) return writeFormatError(question.malformed);
    return writeAnswer(question, await this.#answer(question), transport);
  }

  async #answer({ opcode, klass, edns, name, type }: Question): Promise<Answer> {
    if (opcode !== 0 || klass !== CLASS_IN) return { rcode: RCODE.notImplemented };
    if (edns !== null && edns.version !== 0) return { rcode: RCODE.badVersion };
    if (name === null) return { rcode: RCODE.noSuchName };
    const canonical = canonicalName(name);
    // No host outside is called so, and programs ask for names of addresses without anybody's wish.
    if (canonical === null || canonical.endsWith(".arpa")) return { rcode: RCODE.noSuchName };
    return await this.#answerFor(canonical, type);
  }

  /** @param name canonical. @returns the addresses it may be reached at, IPv4 first; why there is none is noted where it is denied. */
  async addressesOf(name: string): Promise<readonly string[]> {
    const answers = await Promise.all([TYPE.A, TYPE.AAAA].map((type) => this.#answerFor(name, type)));
    return answers.flatMap(({ addresses = [] }) => addresses.map(formatAddress));
  }

  async #answerFor(canonical: string, type: number): Promise<Answer> {
    const verdict = this.#parts.policy().judgeName(canonical, null);
    if (verdict.verdict === "deny") return this.#deny(canonical, verdict);
    // Only addresses are told: other records are hints (HTTPS, SVCB) for ways that would then be refused, or carry data.
    if (type !== TYPE.A && type !== TYPE.AAAA) return { rcode: RCODE.noError };
    const family = type === TYPE.A ? 4 : 6;
    const key = `${family} ${canonical}`;
    const known = this.#cached(key);
    if (known !== undefined) return this.#give(canonical, known.found, this.#left(known));
    if (verdict.chosen > 0 && !this.#running.has(key)) {
      const refusal = this.#refuseChosen(canonical, verdict.chosen, verdict.rule);
      if (refusal !== null) return this.#deny(canonical, refusal);
    }
    const looked = await this.#look(key, canonical, family);
    if ("failed" in looked) {
      const extended = { code: EXTENDED.networkError, text: "the host's resolver did not answer" };
      return { rcode: RCODE.serverFailure, extended };
    }
    return this.#give(canonical, looked.found, this.#ttl(looked.found));
  }

  #refuseChosen(name: string, chosen: number, rule: string): Refused | null {
    const allow = name;
    if (chosen > CHOSEN_MAX_CHARS) {
      const why = `${chosen} characters of it are not in the rule ${rule}, which stands for ${CHOSEN_MAX_CHARS} at most`;
      return { verdict: "deny", rule, why, allow };
    }
    if (this.#chosen.tryTake(1)) return null;
    const why = `more than ${CHOSEN_PER_SECOND} different names a second are asked for under wildcard rules`;
    return { verdict: "deny", rule, why, allow };
  }

  #deny(name: string, refused: Refused): Answer {
    this.#parts.denials.add({ kind: "dns", name }, refused);
    // No such name rather than "refused": programs take that for a passing failure and try again for half a minute.
    return { rcode: RCODE.noSuchName, extended: { code: EXTENDED.prohibited, text: refused.why } };
  }

  /** Of the addresses found, those that may be given. */
  #give(name: string, found: readonly Resolved[] | null, ttl: number): Answer {
    if (found === null) return { rcode: RCODE.noSuchName, ttl };
    const policy = this.#parts.policy();
    const given: Address[] = [];
    let refused: Refused | null = null;
    for (const { address: text } of found.slice(0, MAX_ADDRESSES)) {
      const address = parseAddress(text);
      if (address === null) continue;
      const refusal = policy.judgeAnswer(name, address);
      if (refusal === null) given.push(address);
      else refused ??= refusal;
    }
    if (refused !== null) {
      const denied = this.#deny(name, refused);
      if (given.length === 0) return denied;
    }
    for (const address of given) this.#parts.book.add(name, formatAddress(address), ttl * 1000);
    return { rcode: RCODE.noError, addresses: given, ttl };
  }

  #cached(key: string): Cached | undefined {
    const known = this.#cache.get(key);
    return known !== undefined && known.until > this.#parts.now() ? known : undefined;
  }

  #left({ until }: Cached): number {
    return Math.max(1, Math.ceil((until - this.#parts.now()) / 1000));
  }

  #ttl(found: readonly Resolved[] | null): number {
    if (found === null || found.length === 0) return NEGATIVE_TTL_S;
    return Math.max(1, Math.min(MAX_TTL_S, ...found.map(({ ttl }) => ttl)));
  }

  /** One question at a time for one name. */
  #look(key: string, name: string, family: 4 | 6): Promise<Looked> {
    const running = this.#running.get(key) ?? this.#ask(key, name, family);
    this.#running.set(key, running);
    return running;
  }

  async #ask(key: string, name: string, family: 4 | 6): Promise<Looked> {
    const { outside, signal, now } = this.#parts;
    try {
      const found = await outside.resolve(name, family, signal);
      this.#cache.delete(key);
      this.#cache.set(key, { until: now() + this.#ttl(found) * 1000, found });
      for (const [oldest] of this.#cache) {
        if (this.#cache.size <= MAX_CACHED) break;
        this.#cache.delete(oldest);
      }
      return { found };
    } catch {
      return { failed: true };
    } finally {
      this.#running.delete(key);
    }
  }
}
