/** `[name, type]`; type is u8, u16, u32, u64, i32, i64, bool, str, bytes, a struct's name, or `list<type>`. */
export type Field = readonly [string, string];

export interface Message {
  readonly type: number;
  readonly name: string;
  readonly to: "agent" | "host" | "both";
  /** The payload is opaque bytes. */
  readonly raw?: boolean;
  /** The message starts a stream. */
  readonly opens?: boolean;
  readonly fields?: readonly Field[];
}

export interface Schema {
  readonly generation: number;
  readonly magic: Readonly<Record<string, string>>;
  readonly limits: Readonly<Record<string, number>> & {
    readonly maxListItems: number;
    readonly maxPayloadBytes: number;
  };
  readonly lanes: Readonly<Record<string, number>>;
  readonly structs: Readonly<Record<string, readonly Field[]>>;
  readonly enums: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly messages: readonly Message[];
}

export const listItem = (type: string): string | null => /^list<(.+)>$/.exec(type)?.[1] ?? null;
export const snake = (name: string): string => name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
export const constant = (name: string): string => snake(name).toUpperCase();
export const pascal = (name: string): string => name.charAt(0).toUpperCase() + name.slice(1);
