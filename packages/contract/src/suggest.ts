/** Farther than this many edits a guess confuses more than it helps. */
const MAX_EDITS = 2;

function distance(a: string, b: string): number {
  let before = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = (before[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(change, (before[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1));
    }
    before = row;
  }
  return before[b.length] ?? 0;
}

/** @returns the word most like `given`, or undefined when none is close: two edits, or a shared start or end. */
export function nearest(given: string, words: readonly string[]): string | undefined {
  const text = given.toLowerCase();
  if (text === "" || text.length > 64) return undefined;
  const byEdits = words
    .map((word) => ({ word, edits: distance(text, word.toLowerCase()) }))
    .filter(({ word, edits }) => edits <= MAX_EDITS && edits < word.length)
    .sort((a, b) => a.edits - b.edits)[0]?.word;
  return byEdits ?? words.find((word) => text.length > 2 && (word.startsWith(text) || text.startsWith(word)));
}
