import { expect, test } from "vitest";
import { PullView, type PullViewOptions } from "./pull-view.ts";

function fixture(options: Partial<PullViewOptions>): { written: string[]; clock: { ms: number }; view: PullView } {
  const written: string[] = [];
  const clock = { ms: 0 };
  const write = (text: string): void => void written.push(text);
  return { written, clock, view: new PullView("x", { write, isTerminal: true, now: () => clock.ms, ...options }) };
}

const layer = (digest: string, done: number, state: "waiting" | "downloading" | "done" = "downloading") =>
  ({ kind: "layer", digest: `sha256:${digest.repeat(64)}`, state, done, total: 40_000_000 }) as const;

test("draws a line for each layer over itself, with bytes, rate and time left", () => {
  const { written, clock, view } = fixture({ columns: 120 });
  view.update({ kind: "phase", label: "asking for the manifest" });
  clock.ms = 1000;
  view.update(layer("a", 0));
  clock.ms = 3000;
  view.update(layer("a", 10_000_000));
  expect(written.at(-1)).toBe(
    "\r\u001b[2A\u001b[Jx: 0 of 1 layers, 10.0 MB of 40.0 MB\n" +
      "  aaaaaaaaaaaa [██████░░░░░░░░░░░░░░░░░░]  25 %  10.0 MB of 40.0 MB  5.0 MB/s  6 s left\n",
  );
  view.finish("is there");
  expect(written.slice(-2)).toEqual(["\r\u001b[2A\u001b[J", "x: is there (3 s)\n"]);
});

test("shows as many lines as there is room for, those first that something happens to", () => {
  const { written, clock, view } = fixture({ rows: 5, columns: 60 });
  for (const [i, digest] of ["a", "b", "c", "d"].entries()) {
    clock.ms = i * 1000;
    view.update(layer(digest, 0, digest === "d" ? "downloading" : "waiting"));
  }
  const lines = written.at(-1)?.split("\n") ?? [];
  expect(lines).toHaveLength(4);
  expect(lines[1]).toContain("dddd");
  expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(59 + "\r\u001b[3A\u001b[J".length);
});

test("without a terminal, a line when a layer has come to something and one for a long silence", () => {
  const { written, clock, view } = fixture({ isTerminal: false });
  view.update({ kind: "phase", label: "asking for the manifest" });
  view.update(layer("a", 0, "waiting"));
  view.update(layer("a", 1_000_000));
  clock.ms = 20_000;
  view.update(layer("a", 20_000_000));
  view.update(layer("a", 40_000_000, "done"));
  view.update({ kind: "end", digest: "sha256:x" });
  expect(written.filter((text) => text !== "")).toEqual([
    "x: asking for the manifest\n",
    "x: 0 of 1 layers, 20.0 MB of 40.0 MB\n",
    "x: aaaaaaaaaaaa done  40.0 MB\n",
  ]);
});
