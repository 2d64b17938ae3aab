const BAR_CELLS = 24;
const DEFAULT_COLUMNS = 80;
/** A terminal need not be redrawn more often to look alive. */
const REDRAW_MS = 100;
/** Without a terminal: a line when the label changes and after this long a silence, so that a log stays short. */
const QUIET_LINE_MS = 10_000;
/** Before this share of the work is done the remaining time is a guess. */
const MIN_SHARE_FOR_ETA = 0.05;
const MS_PER_SECOND = 1000;
const SECONDS_PER_MINUTE = 60;

export interface ProgressEvent {
  readonly label: string;
  readonly done: number;
  /** 0 when the amount is unknown. */
  readonly total: number;
}

export interface ProgressOptions {
  /** Where it is drawn: standard error, so that standard output stays clean. */
  readonly write: (text: string) => void;
  /** Whether that is a terminal; else plain lines are written. */
  readonly isTerminal: boolean;
  readonly columns?: number;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  /** What `done` and `total` count, for the rate; without it no rate is shown. */
  readonly unit?: "bytes" | "files";
}

/** Standard error as it is. */
export function onStandardError(): ProgressOptions {
  const { columns } = process.stderr;
  return {
    write: (text) => void process.stderr.write(text),
    isTerminal: process.stderr.isTTY === true,
    ...(columns !== undefined && { columns }),
    now: () => performance.now(),
  };
}

/** One progress bar: `title [████░░░░] 42 %  label  12 MB/s  8 s left`. */
export class Progress {
  readonly #title: string;
  readonly #options: ProgressOptions;
  readonly #started: number;
  #lastDrawn = -Infinity;
  #lastLabel = "";
  #event: ProgressEvent | null = null;

  constructor(title: string, options: ProgressOptions) {
    this.#title = title;
    this.#options = options;
    this.#started = options.now();
  }

  update(event: ProgressEvent): void {
    this.#event = event;
    const since = this.#options.now() - this.#lastDrawn;
    const isNew = event.label !== this.#lastLabel;
    if (this.#options.isTerminal ? isNew || since >= REDRAW_MS : isNew || since >= QUIET_LINE_MS) this.#draw(event);
  }

  /** Takes the bar away and leaves one line that says how long it took. */
  finish(message: string): void {
    const seconds = formatDuration(this.#options.now() - this.#started);
    this.#options.write(`${this.#clear()}${this.#title}: ${message} (${seconds})\n`);
    this.#event = null;
  }

  /** Takes the bar away, for a message of somebody else. */
  stop(): void {
    if (this.#event !== null) this.#options.write(this.#clear());
    this.#event = null;
  }

  #clear(): string {
    return this.#options.isTerminal ? "\r\u001b[K" : "";
  }

  #draw(event: ProgressEvent): void {
    this.#lastDrawn = this.#options.now();
    this.#lastLabel = event.label;
    const share = event.total > 0 ? Math.min(1, event.done / event.total) : null;
    const percent = share === null ? "" : `${Math.floor(share * 100)} %`;
    const details = [event.label, this.#rate(event), this.#remaining(share)].filter((part) => part !== "");
    if (!this.#options.isTerminal) {
      this.#options.write(`${this.#title}: ${[percent, ...details].filter((part) => part !== "").join("  ")}\n`);
      return;
    }
    const line = `${this.#title} ${bar(share)} ${percent.padStart(5)}  ${details.join("  ")}`;
    const columns = this.#options.columns ?? DEFAULT_COLUMNS;
    // One cell stays free: a full line wraps on some terminals, and then cannot be redrawn.
    this.#options.write(this.#clear() + line.slice(0, Math.max(0, columns - 1)));
  }

  #rate(event: ProgressEvent): string {
    const seconds = (this.#options.now() - this.#started) / MS_PER_SECOND;
    if (this.#options.unit === undefined || seconds <= 0) return "";
    const perSecond = event.done / seconds;
    return this.#options.unit === "bytes" ? `${formatBytes(perSecond)}/s` : `${Math.round(perSecond)} files/s`;
  }

  #remaining(share: number | null): string {
    if (share === null || share < MIN_SHARE_FOR_ETA || share >= 1) return "";
    const elapsed = this.#options.now() - this.#started;
    return `${formatDuration((elapsed / share) * (1 - share))} left`;
  }
}

export function bar(share: number | null): string {
  const full = Math.floor((share ?? 0) * BAR_CELLS);
  return `[${"█".repeat(full)}${"░".repeat(BAR_CELLS - full)}]`;
}

/** `850 ms`, `12 s`, `2 min 5 s` */
export function formatDuration(ms: number): string {
  if (ms < MS_PER_SECOND) return `${Math.round(ms)} ms`;
  const seconds = Math.round(ms / MS_PER_SECOND);
  if (seconds < SECONDS_PER_MINUTE) return `${seconds} s`;
  return `${Math.floor(seconds / SECONDS_PER_MINUTE)} min ${seconds % SECONDS_PER_MINUTE} s`;
}

/** Decimal units, as disks and networks are sold in: `950 B`, `1.2 MB` */
export function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"] as const;
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}
