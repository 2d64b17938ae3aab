import { BulkheadError, shownValue } from "@bulkhead/contract";

function bad(field: string, value: unknown, wanted: string): BulkheadError {
  return new BulkheadError("SPEC_INVALID", {
    what: `${field} ${shownValue(value)} of a request on the control socket is no ${wanted}`,
    next: "use the bulkhead that belongs to the engine",
  });
}

/** A request's fields, none of which is taken on trust. Every reader throws BulkheadError SPEC_INVALID. */
export class Ask {
  readonly #fields: Readonly<Record<string, unknown>>;

  constructor(value: unknown) {
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw bad("the whole", value, "object");
    this.#fields = value as Record<string, unknown>;
  }

  #own(field: string): unknown {
    return Object.hasOwn(this.#fields, field) ? this.#fields[field] : undefined;
  }

  text(field: string): string {
    const value = this.#own(field);
    if (typeof value === "string") return value;
    throw bad(field, value, "text");
  }

  number(field: string): number {
    const value = this.#own(field);
    if (typeof value === "number" && Number.isSafeInteger(value)) return value;
    throw bad(field, value, "whole number");
  }

  /** Of 64 bits, as decimal text. */
  long(field: string): bigint {
    const value = this.text(field);
    const number = /^-?[0-9]{1,19}$/.test(value) ? BigInt(value) : null;
    if (number !== null && number === BigInt.asIntN(64, number)) return number;
    throw bad(field, value, "whole number of 64 bits");
  }

  flag(field: string): boolean {
    const value = this.#own(field) ?? false;
    if (typeof value === "boolean") return value;
    throw bad(field, value, "yes or no");
  }

  has(field: string): boolean {
    return this.#own(field) !== undefined;
  }

  /** Bytes that need not be text. */
  bytes(field: string): Buffer {
    return Buffer.from(this.text(field), "base64");
  }

  texts(field: string): string[] {
    const value = this.#own(field) ?? [];
    if (Array.isArray(value) && value.every((item) => typeof item === "string")) return value as string[];
    throw bad(field, value, "list of texts");
  }

  part(field: string): Ask {
    return new Ask(this.#own(field));
  }

  /** As options have it: absent where it was not given. */
  given<F extends string, T>(field: F, read: (field: F) => T): { readonly [K in F]?: T } {
    return this.has(field) ? ({ [field]: read(field) } as { [K in F]: T }) : {};
  }
}
