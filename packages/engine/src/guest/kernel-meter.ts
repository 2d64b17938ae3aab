export type KernelPhase = "wait" | "download" | "unpack" | "configure" | "compile" | "done";

/** `done` of `total` parts of the expected time. */
export interface KernelProgress {
  readonly phase: KernelPhase;
  /** The phase in words, for people. */
  readonly label: string;
  readonly done: number;
  readonly total: number;
}

export type OnKernelProgress = (event: KernelProgress) => void;

const TOTAL = 1000;
/** Where each phase begins, from the times of a build that took four minutes on two cores. */
const PHASES: Readonly<Record<KernelPhase, { readonly from: number; readonly label: string }>> = {
  wait: { from: 0, label: "waiting for another build to end" },
  download: { from: 0, label: "downloading the kernel's source" },
  unpack: { from: 10, label: "unpacking the source" },
  configure: { from: 60, label: "configuring" },
  compile: { from: 70, label: "compiling" },
  done: { from: TOTAL, label: "done" },
};
/** Lines like `  CC      kernel/fork.o` of a whole build, counted once; another compiler or kernel differs a little. */
const EXPECTED_STEPS = 1436;
const STEP = /^ {2}[A-Z][A-Z0-9]* +\S/;
/** The bar never says that all is compiled before it is. */
const MAX_SHARE = 0.99;

/** Turns the build's output into progress that never goes backwards. */
export class KernelMeter {
  #steps = 0;
  #last = -1;
  #phase: KernelPhase = "wait";
  readonly #emit: OnKernelProgress;

  constructor(emit: OnKernelProgress) {
    this.#emit = emit;
  }

  phase(phase: KernelPhase): void {
    this.#phase = phase;
    this.#report(PHASES[phase].from);
  }

  line(line: string): void {
    if (!STEP.test(line)) return;
    this.#steps += 1;
    const { from } = PHASES.compile;
    const share = Math.min(MAX_SHARE, this.#steps / EXPECTED_STEPS);
    this.#report(Math.floor(from + share * (TOTAL - from)));
  }

  #report(done: number): void {
    if (done <= this.#last) return;
    this.#last = done;
    this.#emit({ phase: this.#phase, label: PHASES[this.#phase].label, done, total: TOTAL });
  }
}
