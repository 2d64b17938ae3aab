import { BulkheadError } from "@bulkhead/contract";

/** Linux's numbers as x86-64 and arm64 have them. */
const NUMBERS = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGILL: 4,
  SIGTRAP: 5,
  SIGABRT: 6,
  SIGBUS: 7,
  SIGFPE: 8,
  SIGKILL: 9,
  SIGUSR1: 10,
  SIGSEGV: 11,
  SIGUSR2: 12,
  SIGPIPE: 13,
  SIGALRM: 14,
  SIGTERM: 15,
  SIGSTKFLT: 16,
  SIGCHLD: 17,
  SIGCONT: 18,
  SIGSTOP: 19,
  SIGTSTP: 20,
  SIGTTIN: 21,
  SIGTTOU: 22,
  SIGURG: 23,
  SIGXCPU: 24,
  SIGXFSZ: 25,
  SIGVTALRM: 26,
  SIGPROF: 27,
  SIGWINCH: 28,
  SIGIO: 29,
  SIGPWR: 30,
  SIGSYS: 31,
} as const;

const LAST_SIGNAL = 64;
/** As the C library of most programs counts them; the kernel's first two are its own. */
const FIRST_REAL_TIME = 34;

export type SignalName = keyof typeof NUMBERS;
/** A name, with or without SIG (`SIGTERM`, `RTMIN+3`), or a number from 1 to 64, also as text. */
export type SignalInput = SignalName | number | (string & {});

const NAMES: ReadonlyMap<number, SignalName> = new Map(
  Object.entries(NUMBERS).map(([name, number]) => [number, name as SignalName]),
);

/** `37`, `RTMIN+3` and `RTMAX-27`; null for anything else. */
function numbered(name: string): number | null {
  const {
    plain,
    from,
    distance = "0",
  } = /^(?:(?<plain>\d{1,2})|(?<from>RTMIN|RTMAX)(?:(?<distance>[+-]\d{1,2}))?)$/.exec(name)?.groups ?? {};
  const number =
    plain === undefined ? (from === "RTMIN" ? FIRST_REAL_TIME : LAST_SIGNAL) + Number(distance) : Number(plain);
  const least = plain === undefined ? FIRST_REAL_TIME : 1;
  return (plain ?? from) !== undefined && number >= least && number <= LAST_SIGNAL ? number : null;
}

export function signalNumber(signal: SignalInput): number {
  if (typeof signal === "number" && Number.isInteger(signal) && signal >= 1 && signal <= LAST_SIGNAL) return signal;
  const name = String(signal).toUpperCase().replace(/^SIG/, "");
  const found = new Map<string, number>(Object.entries(NUMBERS)).get(`SIG${name}`) ?? numbered(name);
  if (found !== null) return found;
  throw new BulkheadError("SPEC_INVALID", {
    what: `signal ${JSON.stringify(signal)} is unknown`,
    next: `use a name such as SIGTERM, or a number from 1 to ${LAST_SIGNAL}`,
  });
}

/** @returns a name for every number; real-time signals are SIG34, SIG35, … */
export function signalName(number: number): string {
  return NAMES.get(number) ?? `SIG${number}`;
}
