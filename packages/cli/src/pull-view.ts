import type { LayerState, PullEvent } from "@bulkhead/engine";
import { bar, formatBytes, formatDuration } from "./progress.ts";

const DEFAULT_COLUMNS = 80;
const DEFAULT_ROWS = 24;
/** A terminal need not be redrawn more often to look alive. */
const REDRAW_MS = 100;
/** Without a terminal: after this long a silence one line says how far all of it is. */
const QUIET_LINE_MS = 10_000;
/** Enough of a digest for people to tell layers apart. */
const SHOWN_DIGEST_CHARS = 12;
const MS_PER_SECOND = 1000;
/** Before this share of a layer is there the remaining time is a guess. */
const MIN_SHARE_FOR_ETA = 0.02;

const WORDS: Readonly<Record<LayerState, string>> = {
  waiting: "waiting",
  downloading: "",
  downloaded: "downloaded",
  unpacking: "unpacking",
  done: "done",
};

export interface PullViewOptions {
  /** Where it is drawn: standard error, so that standard output stays clean. */
  readonly write: (text: string) => void;
  /** Whether that is a terminal; else plain lines are written. */
  readonly isTerminal: boolean;
  readonly columns?: number;
  readonly rows?: number;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

interface LayerLine {
  state: LayerState;
  done: number;
  readonly total: number;
  /** When its present state began, and how many bytes it had then. */
  since: { readonly ms: number; readonly bytes: number };
}

/**
 * A pull on a terminal: one line for each layer, drawn over itself,
 * `3f4ca61aafcd [████░░░░] 42 %  12 MB of 29 MB  5.1 MB/s  8 s left`; elsewhere a line when a layer has come to something.
 */
export class PullView {
  readonly #title: string;
  readonly #options: PullViewOptions;
  readonly #started: number;
  readonly #layers = new Map<string, LayerLine>();
  #label = "";
  #drawnLines = 0;
  #lastDrawn = -Infinity;

  constructor(title: string, options: PullViewOptions) {
    this.#title = title;
    this.#options = options;
    this.#started = options.now();
  }

  update(event: PullEvent): void {
    if (event.kind === "end") return this.stop();
    if (event.kind === "layer") return this.#layer(event);
    this.#label = event.label;
    if (!this.#options.isTerminal) this.#line(event.label);
    else this.#draw(true);
  }

  #layer(event: Extract<PullEvent, { readonly kind: "layer" }>): void {
    const now = this.#options.now();
    const before = this.#layers.get(event.digest);
    const isNew = before?.state !== event.state;
    const { state, done, total } = event;
    this.#layers.set(event.digest, {
      ...{ state, done, total },
      since: isNew || before === undefined ? { ms: now, bytes: done } : before.since,
    });
    if (this.#options.isTerminal) this.#draw(false);
    else if (isNew && state !== "waiting" && state !== "downloading") this.#plain(event.digest);
    else if (now - this.#lastDrawn >= QUIET_LINE_MS) this.#line(this.#sum());
  }

  /** Takes the lines away and leaves one that says how long it took. */
  finish(message: string): void {
    this.stop();
    this.#options.write(`${this.#title}: ${message} (${formatDuration(this.#options.now() - this.#started)})\n`);
  }

  /** Takes the lines away, for a message of somebody else. */
  stop(): void {
    this.#options.write(this.#clear());
    this.#drawnLines = 0;
  }

  #plain(digest: string): void {
    const layer = this.#layers.get(digest);
    if (layer === undefined) return;
    this.#line(`${shortDigest(digest)} ${WORDS[layer.state]}  ${formatBytes(layer.total)}`);
  }

  #line(text: string): void {
    this.#lastDrawn = this.#options.now();
    this.#options.write(`${this.#title}: ${text}\n`);
  }

  #sum(): string {
    const all = [...this.#layers.values()];
    const done = all.reduce((sum, layer) => sum + layer.done, 0);
    const total = all.reduce((sum, layer) => sum + layer.total, 0);
    const finished = all.filter(({ state }) => state === "done").length;
    return `${finished} of ${all.length} layers, ${formatBytes(done)} of ${formatBytes(total)}`;
  }

  #clear(): string {
    if (!this.#options.isTerminal || this.#drawnLines === 0) return "";
    return `\r\u001b[${this.#drawnLines}A\u001b[J`;
  }

  #draw(force: boolean): void {
    const now = this.#options.now();
    if (!force && now - this.#lastDrawn < REDRAW_MS) return;
    this.#lastDrawn = now;
    // One cell and one line stay free: what is wrapped or scrolled away cannot be drawn over.
    const columns = Math.max(1, (this.#options.columns ?? DEFAULT_COLUMNS) - 1);
    const room = Math.max(1, (this.#options.rows ?? DEFAULT_ROWS) - 2);
    const head = this.#layers.size === 0 ? this.#label : this.#sum();
    const lines = [`${this.#title}: ${head}`, ...this.#shown(room - 1).map(([id, layer]) => this.#bar(id, layer, now))];
    this.#options.write(`${this.#clear()}${lines.map((line) => `${line.slice(0, columns)}\n`).join("")}`);
    this.#drawnLines = lines.length;
  }

  /** All, where there is room for them; else those that something happens to before the others. */
  #shown(room: number): readonly (readonly [string, LayerLine])[] {
    const all = [...this.#layers];
    if (all.length <= room) return all;
    const busy = all.filter(([, { state }]) => state === "downloading" || state === "unpacking");
    return [...busy, ...all.filter((one) => !busy.includes(one))].slice(0, Math.max(0, room));
  }

  #bar(digest: string, layer: LayerLine, now: number): string {
    const share = layer.total === 0 ? 1 : Math.min(1, layer.done / layer.total);
    const percent = `${Math.floor(share * 100)} %`.padStart(5);
    const amount = `${formatBytes(layer.done)} of ${formatBytes(layer.total)}`;
    const parts = [WORDS[layer.state], amount, ...pace(layer, share, now)].filter((part) => part !== "");
    return `  ${shortDigest(digest)} ${bar(share)} ${percent}  ${parts.join("  ")}`;
  }
}

function pace({ state, done, total, since }: LayerLine, share: number, now: number): readonly string[] {
  const seconds = (now - since.ms) / MS_PER_SECOND;
  const rate = seconds <= 0 ? 0 : (done - since.bytes) / seconds;
  if ((state !== "downloading" && state !== "unpacking") || rate <= 0) return [];
  const left =
    share < MIN_SHARE_FOR_ETA || share >= 1 ? [] : [`${formatDuration(((total - done) / rate) * MS_PER_SECOND)} left`];
  return [`${formatBytes(rate)}/s`, ...left];
}

function shortDigest(digest: string): string {
  return digest.replace(/^sha256:/, "").slice(0, SHOWN_DIGEST_CHARS);
}

/** On standard error as it is. */
export function viewOf(title: string): PullView {
  const { columns, rows } = process.stderr;
  return new PullView(title, {
    write: (text) => void process.stderr.write(text),
    isTerminal: process.stderr.isTTY === true,
    ...(columns !== undefined && { columns }),
    ...(rows !== undefined && { rows }),
    now: () => performance.now(),
  });
}
