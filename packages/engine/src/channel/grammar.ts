import { INITIAL_CREDIT_BYTES, LANE, TYPE, type Message } from "./wire.gen.ts";

/** What an agent may say on a stream, by the message that opened it. Anything else is a violation. */
export interface Grammar {
  /** Must come before any data, and before anything else but Failed. */
  readonly first: number | null;
  /** Messages besides Data, End, Credit, Failed and Done; each at most once. */
  readonly messages: readonly number[];
  /** Without these Done is a violation. */
  readonly required: readonly number[];
  readonly lanes: { readonly out: boolean; readonly err: boolean; readonly in: boolean };
  /** Lanes whose End must come before Done. */
  readonly endsBeforeDone: readonly number[];
}

type Opener = Extract<
  Message["name"],
  | "Exec"
  | "Connect"
  | "SignalProcess"
  | "ListProcesses"
  | "GetUsage"
  | "PrepareGuest"
  | "MountShared"
  | "RefreshGuest"
  | "ReadFile"
  | "WriteFile"
  | "Stat"
  | "ListDirectory"
  | "MakeDirectory"
  | "Move"
  | "Remove"
  | "ChangeMode"
  | "ChangeOwner"
  | "Watch"
  | "MakeSymlink"
  | "ChangeTime"
  | "DialTcp"
  | "DialUnix"
  | "OpenEgress"
  | "TakeConnection"
>;
/** A message that opens a stream. */
export type OpenMessage = Extract<Message, { readonly name: Opener }>;

const NO_LANES = { out: false, err: false, in: false };

function reply(type: number): Grammar {
  return { first: type, messages: [type], required: [type], lanes: NO_LANES, endsBeforeDone: [] };
}

function process(err: boolean): Grammar {
  return {
    first: TYPE.Started,
    messages: [TYPE.Started, TYPE.Exited],
    required: [TYPE.Started, TYPE.Exited],
    lanes: { out: true, err, in: true },
    endsBeforeDone: err ? [LANE.out, LANE.err] : [LANE.out],
  };
}

const PLAIN: Grammar = { first: null, messages: [], required: [], lanes: NO_LANES, endsBeforeDone: [] };
const RECORDS: Grammar = { ...PLAIN, lanes: { out: true, err: false, in: false }, endsBeforeDone: [LANE.out] };
const PIPED = process(true);
const PTY = process(false);
/** Tells the calls before the exit. */
const recording = (of: Grammar): Grammar => ({
  ...of,
  messages: [...of.messages, TYPE.Recorded],
  required: [...of.required, TYPE.Recorded],
});
const PIPED_RECORDED = recording(PIPED);
const PTY_RECORDED = recording(PTY);
/** Whether the process has a pty is not known here: both lanes may speak, only the first must end. */
const CONNECTED: Grammar = { ...PIPED, endsBeforeDone: [LANE.out] };
const DIALED: Grammar = {
  ...reply(TYPE.Opened),
  lanes: { out: true, err: false, in: true },
  endsBeforeDone: [LANE.out],
};
const WATCH: Grammar = { ...reply(TYPE.Opened), lanes: { out: true, err: false, in: false } };
/** Either end is by Cancel or Failed: it is open as long as the sandbox. */
const EGRESS: Grammar = { ...reply(TYPE.Opened), lanes: { out: true, err: false, in: true } };
const READ: Grammar = {
  ...reply(TYPE.StatResult),
  lanes: { out: true, err: false, in: false },
  endsBeforeDone: [LANE.out],
};
const WRITE: Grammar = {
  first: TYPE.Opened,
  messages: [TYPE.Opened, TYPE.Written],
  required: [TYPE.Opened, TYPE.Written],
  lanes: { out: false, err: false, in: true },
  endsBeforeDone: [],
};
const STAT = reply(TYPE.StatResult);
const USAGE = reply(TYPE.Usage);

export function grammarOf(opener: OpenMessage): Grammar {
  switch (opener.name) {
    case "Exec":
      if (opener.body.record) return opener.body.pty ? PTY_RECORDED : PIPED_RECORDED;
      return opener.body.pty ? PTY : PIPED;
    case "Connect":
      return CONNECTED;
    case "ReadFile":
      return READ;
    case "WriteFile":
      return WRITE;
    case "Stat":
      return STAT;
    case "ListDirectory":
    case "ListProcesses":
      return RECORDS;
    case "GetUsage":
      return USAGE;
    case "Watch":
      return WATCH;
    case "DialTcp":
    case "DialUnix":
    case "TakeConnection":
      return DIALED;
    case "OpenEgress":
      return EGRESS;
    default:
      return PLAIN;
  }
}

/** Bytes either side of each lane may send before the first credit comes. */
export function windowOf(opener: OpenMessage): number {
  return opener.name === "TakeConnection" ? opener.body.windowBytes : INITIAL_CREDIT_BYTES;
}
