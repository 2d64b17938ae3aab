/** Phases of a build in their order. */
export type BuildPhase =
  | "wait"
  | "update"
  | "download"
  | "extract"
  | "essential"
  | "install"
  | "finish"
  | "digest"
  | "store";

/** Progress of the whole build: `done` of `total` parts, which are parts of the expected time and not of bytes. */
export interface BuildProgress {
  readonly phase: BuildPhase;
  /** The phase in words, for people. */
  readonly label: string;
  readonly done: number;
  readonly total: number;
}

export type OnBuildProgress = (event: BuildProgress) => void;

const TOTAL = 1000;
/** Where each phase begins, from the times of a build that took 28 s. */
const PHASES: Readonly<Record<BuildPhase, { readonly from: number; readonly label: string }>> = {
  wait: { from: 0, label: "waiting for another build to end" },
  update: { from: 0, label: "reading package lists" },
  download: { from: 50, label: "downloading packages" },
  extract: { from: 80, label: "extracting the base system" },
  essential: { from: 370, label: "configuring the base system" },
  install: { from: 530, label: "installing programs" },
  finish: { from: 880, label: "cleaning up" },
  digest: { from: 900, label: "computing the digest" },
  store: { from: 960, label: "writing to disk" },
};
/** mmdebstrap's own words at the start of a phase. */
const MARKS: readonly (readonly [RegExp, BuildPhase])[] = [
  [/^I: downloading packages/, "download"],
  [/^I: extracting archives/, "extract"],
  [/^I: installing essential packages/, "essential"],
  [/^I: installing remaining packages/, "install"],
  [/^I: cleaning package lists/, "finish"],
];
/** Each package says when it is fetched, unpacked and set up. */
const PACKAGE_STEP = /^(?:Get:\d+ |Unpacking |Setting up )/;
const STEPS_PER_PACKAGE = 3;
/** Lines that tell of no package in a phase still move the bar, this share of what is left each. */
const CREEP = 0.004;
/** Files in a base image; only the bar depends on it. */
const EXPECTED_FILES = 11_000;

/** Turns the builder's output into progress that never goes backwards. */
export class BuildMeter {
  #phase: BuildPhase = "wait";
  #share = 0;
  #steps = 0;
  #expected = 0;
  #last = -1;
  readonly #emit: OnBuildProgress;

  constructor(emit: OnBuildProgress) {
    this.#emit = emit;
  }

  phase(phase: BuildPhase): void {
    this.#phase = phase;
    this.#share = 0;
    this.#steps = 0;
    this.#expected = 0;
    this.#last = Math.min(this.#last, PHASES[phase].from - 1);
    this.#report();
  }

  line(line: string): void {
    const mark = MARKS.find(([pattern]) => pattern.test(line));
    if (mark !== undefined) return this.phase(mark[1]);
    const count = /(\d+) newly installed/.exec(line);
    if (count !== null) this.#expected = Number(count[1]) * STEPS_PER_PACKAGE;
    if (PACKAGE_STEP.test(line)) this.#steps += 1;
    const measured = this.#expected > 0 && this.#phase === "install" ? this.#steps / this.#expected : 0;
    this.#share = Math.min(1, Math.max(this.#share + (1 - this.#share) * CREEP, measured));
    this.#report();
  }

  files(done: number): void {
    this.#share = Math.min(1, done / EXPECTED_FILES);
    this.#report();
  }

  #report(): void {
    const { from, label } = PHASES[this.#phase];
    const done = Math.floor(from + this.#share * (nextStart(from) - from));
    if (done <= this.#last) return;
    this.#last = done;
    this.#emit({ phase: this.#phase, label, done, total: TOTAL });
  }
}

function nextStart(from: number): number {
  return Math.min(...Object.values(PHASES).flatMap((phase) => (phase.from > from ? [phase.from] : [])), TOTAL);
}
