import { BulkheadError, nearest } from "@bulkhead/contract";

/**
 * Our own reader, because neither node:util's parseArgs nor citty stops at the first positional, which `run` needs so
 * that `bulkhead run python3 -c …` hands `-c` to python3, and neither guesses what a misspelt option meant.
 */
export interface OptionDef {
  readonly name: string;
  readonly short?: string;
  /** What the value is called in help; a switch has none. */
  readonly value?: string;
  readonly repeat?: boolean;
  readonly help: string;
}

export interface Parsed {
  readonly values: ReadonlyMap<string, readonly string[]>;
  /** From the first word that is no option, or after `--`. */
  readonly rest: readonly string[];
}

export const HELP: OptionDef = { name: "help", short: "h", help: "Show this help" };
export const JSON_OUTPUT: OptionDef = { name: "json", help: "Print machine-readable JSON" };

export function usageError(what: string, why: string, next: string): BulkheadError {
  return new BulkheadError("SPEC_INVALID", { what, why, next });
}

function unknown(verb: string, written: string, defs: readonly OptionDef[]): BulkheadError {
  const guess = nearest(
    written.replace(/^--?/, ""),
    defs.map((def) => def.name),
  );
  return usageError(
    `unknown option ${written}`,
    `bulkhead ${verb} has no such option; options of the command itself go after --`,
    guess === undefined ? `see bulkhead help ${verb}` : `did you mean --${guess}?`,
  );
}

class Reader {
  readonly values = new Map<string, string[]>();
  readonly #verb: string;
  readonly #defs: readonly OptionDef[];
  readonly #words: string[];

  constructor(verb: string, defs: readonly OptionDef[], words: readonly string[]) {
    this.#verb = verb;
    this.#defs = defs;
    this.#words = [...words];
  }

  read(): readonly string[] {
    for (;;) {
      const word = this.#words[0];
      if (word === undefined || word === "-" || !word.startsWith("-")) return this.#words;
      this.#words.shift();
      if (word === "--") return this.#words;
      if (word.startsWith("--")) this.#long(word);
      else this.#short(word);
    }
  }

  #long(word: string): void {
    const equals = word.indexOf("=");
    const written = equals === -1 ? word : word.slice(0, equals);
    const def = this.#defs.find((one) => `--${one.name}` === written);
    if (def === undefined) throw unknown(this.#verb, written, this.#defs);
    this.#store(def, written, equals === -1 ? undefined : word.slice(equals + 1));
  }

  /** `-i`, `-it`, `-e KEY=VALUE`, `-eKEY=VALUE`. */
  #short(word: string): void {
    for (let i = 1; i < word.length; i++) {
      const written = `-${word[i]}`;
      const def = this.#defs.find((one) => one.short === word[i]);
      if (def === undefined) throw unknown(this.#verb, word.length === 2 ? written : word, this.#defs);
      const attached = word.slice(i + 1);
      if (def.value !== undefined) {
        this.#store(def, written, attached === "" ? undefined : attached.replace(/^=/, ""));
        return;
      }
      this.#store(def, written, undefined);
    }
  }

  #store(def: OptionDef, written: string, attached: string | undefined): void {
    const before = this.values.get(def.name);
    if (before !== undefined && def.value !== undefined && def.repeat !== true) {
      const why = "two values contradict each other, and neither is preferred silently";
      throw usageError(`option ${written} is given twice`, why, `keep one ${written}`);
    }
    if (def.value === undefined) {
      if (attached !== undefined) {
        throw usageError(
          `option ${written} takes no value, got ${JSON.stringify(attached)}`,
          "it is a switch",
          `write ${written}`,
        );
      }
      this.values.set(def.name, ["true"]);
      return;
    }
    const value = attached ?? this.#words.shift();
    if (value === undefined || (attached === undefined && this.#isOption(value))) {
      throw usageError(`option ${written} needs a value`, "none follows it", `write ${written} ${def.value}`);
    }
    this.values.set(def.name, [...(before ?? []), value]);
  }

  #isOption(word: string): boolean {
    return word === "--" || this.#defs.some((def) => word === `--${def.name}` || word.startsWith(`--${def.name}=`));
  }
}

/** @throws BulkheadError SPEC_INVALID naming the option, with a guess at what was meant. */
export function parseOptions(verb: string, defs: readonly OptionDef[], words: readonly string[]): Parsed {
  const reader = new Reader(verb, defs, words);
  const rest = reader.read();
  return { values: reader.values, rest };
}

/** As `parseOptions`, for verbs that take no command: options may stand before, between and after the words. */
export function parseAnywhere(verb: string, defs: readonly OptionDef[], words: readonly string[]): Parsed {
  const values = new Map<string, readonly string[]>();
  const rest: string[] = [];
  for (let left = words; ;) {
    const parsed = parseOptions(verb, defs, left);
    for (const [name, given] of parsed.values) values.set(name, given);
    const [word, ...more] = parsed.rest;
    if (word === undefined) return { values, rest };
    rest.push(word);
    left = more;
  }
}

/** For verbs that take no command: what is left over was meant as something. */
export function refuseRest(verb: string, rest: readonly string[]): void {
  if (rest.length === 0) return;
  throw usageError(
    `bulkhead ${verb} takes no argument ${JSON.stringify(rest[0])}`,
    "everything it needs is given by options",
    `see bulkhead help ${verb}`,
  );
}
