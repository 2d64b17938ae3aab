export interface Style {
  bold(text: string): string;
  dim(text: string): string;
  red(text: string): string;
  green(text: string): string;
  yellow(text: string): string;
}

function paint(on: boolean, code: number): (text: string) => string {
  return (text) => (on ? `\u001b[${code}m${text}\u001b[0m` : text);
}

/** Colours only where a person reads them: a terminal, and NO_COLOR unset. */
export function makeStyle(on: boolean): Style {
  return {
    bold: paint(on, 1),
    dim: paint(on, 2),
    red: paint(on, 31),
    green: paint(on, 32),
    yellow: paint(on, 33),
  };
}

/** Control characters of what a guest or a file name brought must not reach the reader's terminal. */
export function printable(text: string): string {
  // eslint-disable-next-line no-control-regex
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\ufffd").replace(/\s*\n\s*/g, " ");
}

/** Left-aligned columns, two spaces apart, the last one unpadded. */
export function columns(
  rows: readonly (readonly string[])[],
  paintCell?: (text: string, row: number, column: number) => string,
): string {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, cell.length)));
  return rows
    .map((row, r) =>
      row
        .map((cell, c) => {
          const shown = paintCell === undefined ? cell : paintCell(cell, r, c);
          return c === row.length - 1 ? shown : shown + " ".repeat((widths[c] ?? 0) - cell.length);
        })
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
