export type BuildPhase = "wait" | "download" | "unpack" | "configure" | "compile" | "done";

/** `done` of `total` parts of the expected time. */
export interface BuildProgress {
  readonly phase: BuildPhase;
  /** The phase in words, for people. */
  readonly label: string;
  readonly done: number;
  readonly total: number;
}

export type OnBuildProgress = (event: BuildProgress) => void;

const TOTAL = 1000;
/** Where each phase begins, from the times of builds that took four minutes on two cores. */
const PHASES: Readonly<Record<BuildPhase, { readonly from: number; readonly label: string }>> = {
  wait: { from: 0, label: "waiting for another build to end" },
  download: { from: 0, label: "downloading the source" },
  unpack: { from: 10, label: "unpacking the source" },
  configure: { from: 60, label: "configuring" },
  compile: { from: 70, label: "compiling" },
  done: { from: TOTAL, label: "done" },
};
/** The bar never says that all is compiled before it is. */
const MAX_SHARE = 0.99;

/** Tells of one line of a build's output what share of it is done, from 0 to 1; null where the line does not say. */
export type ShareOf = (line: string) => number | null;

/** Counts lines that match; `expected` is how many a whole build has. */
export function countedLines(step: RegExp, expected: number): ShareOf {
  let steps = 0;
  return (line) => (step.test(line) ? (steps += 1) / expected : null);
}

/** Lines that begin as `[17/1218] ` does. */
export function numberedLines(): ShareOf {
  return (line) => {
    const [, done, all] = /^\[(\d+)\/(\d+)\] /.exec(line) ?? [];
    return done === undefined || all === undefined ? null : Number(done) / Number(all);
  };
}

/** Turns a build's output into progress that never goes backwards. */
export class BuildMeter {
  #last = -1;
  #phase: BuildPhase = "wait";
  readonly #shareOf: ShareOf;
  readonly #emit: OnBuildProgress;

  constructor(shareOf: ShareOf, emit: OnBuildProgress = () => {}) {
    this.#shareOf = shareOf;
    this.#emit = emit;
  }

  phase(phase: BuildPhase): void {
    this.#phase = phase;
    this.#report(PHASES[phase].from);
  }

  line(line: string): void {
    const share = this.#shareOf(line);
    if (share === null) return;
    const { from } = PHASES.compile;
    this.#report(Math.floor(from + Math.min(MAX_SHARE, share) * (TOTAL - from)));
  }

  #report(done: number): void {
    if (done <= this.#last) return;
    this.#last = done;
    this.#emit({ phase: this.#phase, label: PHASES[this.#phase].label, done, total: TOTAL });
  }
}
