/** A profile from the calls that a workload was seen to make: at most what a container has. */
import { BulkheadError } from "@bulkhead/contract";
import { ALLOW } from "../../../seccomp/bpf.ts";
import { parseProfile, type Comparison } from "../../../seccomp/parse.ts";
import { SYSCALLS, type Architecture } from "../../../seccomp/syscalls.ts";
import { OCI_ARCH, renderArgument, type OciEntry } from "./oci.ts";
import { PROFILE } from "./profile.ts";

/**
 * What starting, ending and waiting take, and what libraries call only when time or load makes them: a workload that was
 * seen without them would fail on another day.
 */
const BASE = `
  execve exit exit_group rt_sigreturn restart_syscall rt_sigaction rt_sigprocmask sigaltstack
  read write close fstat newfstatat lseek brk mmap munmap mprotect mremap madvise
  futex set_robust_list set_tid_address rseq sched_yield nanosleep clock_nanosleep
  arch_prctl prlimit64 getrandom getpid gettid tgkill clock_gettime gettimeofday getcpu
`;

/** By these the container's own profile tells what is meant; a rule is kept for each first argument that was seen. */
const BY_ARGUMENT = ["socket", "personality"];
const CLONE = "clone";
/** Three ways to the same, between which libraries change with what else is open or blocked. */
const NEW_PROCESS = [CLONE, "fork", "vfork"];
const ENOSYS = 38;
/** Linux has about 50 families, and a program uses a handful. */
const ARGUMENTS_MAX = 64;

/** One call and, where the profile has conditions on it, its first argument. */
export interface SeenCall {
  readonly number: number;
  readonly argument: bigint;
}

interface Seen {
  readonly names: Set<string>;
  /** By name, the first arguments. */
  readonly values: ReadonlyMap<string, Set<number>>;
}

const allowed = new Set(PROFILE.allowed);

/** Whether the container's profile could let the call through with this first argument. */
function admits(name: string, argument: number): boolean {
  const call = PROFILE.conditional.find((one) => one.name === name);
  return call !== undefined && call.alternatives.some(([first]) => first?.index === 0 && first.value === argument);
}

function note(seen: Seen, name: string, argument: bigint): void {
  const values = seen.values.get(name);
  if (values === undefined) {
    if (name === CLONE || allowed.has(name)) seen.names.add(name);
    return;
  }
  const word = Number(BigInt.asUintN(32, argument));
  if (values.size < ARGUMENTS_MAX && admits(name, word)) values.add(word);
}

/** Only the forms that this module writes: another rule may mean more than a name and a first argument say. */
function firstArgument(comparisons: readonly Comparison[]): bigint | undefined {
  const [only] = comparisons;
  if (comparisons.length !== 1 || only?.index !== 0) return undefined;
  if (only.op === "EQ") return only.value;
  return only.op === "MASKED_EQ" && only.value === 0xffffffffn ? only.valueTwo : undefined;
}

function merge(seen: Seen, file: { readonly name: string; readonly json: string }, arch: Architecture): void {
  const given = parseProfile(file.name, file.json, { arch, kernelRelease: "", capabilities: [] });
  for (const { name, action, comparisons } of given.rules) {
    if (action !== ALLOW) continue;
    const argument = firstArgument(comparisons);
    if (comparisons.length === 0 && !seen.values.has(name)) note(seen, name, 0n);
    else if (name === CLONE) note(seen, name, 0n);
    else if (argument !== undefined && seen.values.has(name)) note(seen, name, argument);
    else {
      throw new BulkheadError("SPEC_INVALID", {
        what: `seccomp profile ${JSON.stringify(file.name)} cannot be merged: its rule for ${name} is not one of a learned profile`,
        why: "of a rule with args only those for clone, socket and personality are understood here",
        next: "merge a profile that bulkhead seccomp learn wrote, or edit the result by hand",
      });
    }
  }
}

function conditional(seen: Seen): OciEntry[] {
  const clone = seen.names.has(CLONE) ? PROFILE.conditional.filter(({ name }) => name === CLONE) : [];
  return [
    ...clone.flatMap(({ name, alternatives }) =>
      alternatives.map((tests) => ({
        names: [name],
        action: "SCMP_ACT_ALLOW" as const,
        args: tests.map(renderArgument),
      })),
    ),
    ...BY_ARGUMENT.flatMap((name) =>
      [...(seen.values.get(name) ?? [])]
        .toSorted((a, b) => a - b)
        .map((value) => ({
          names: [name],
          action: "SCMP_ACT_ALLOW" as const,
          args: [renderArgument({ index: 0, mask: 0xffffffff, value })],
        })),
    ),
  ];
}

/**
 * OCI's `linux.seccomp` that allows what was seen, a small base that every program needs, and nothing that the container's
 * own profile refuses, whoever claims to have seen it. Where that profile pretends that a call is absent this one does too:
 * the kernel takes the newer filter's error of two, and libraries fall back on "no such call" only.
 * @param merged learned before; its calls are added.
 * @throws BulkheadError SPEC_INVALID for a `merged` that is no profile, or not a learned one.
 */
export function learnedProfile(
  calls: readonly SeenCall[],
  arch: Architecture,
  merged?: { readonly name: string; readonly json: string },
): unknown {
  const numbers = new Map([...SYSCALLS[arch]].map(([name, number]) => [number, name] as const));
  const seen: Seen = { names: new Set(), values: new Map(BY_ARGUMENT.map((name) => [name, new Set<number>()])) };
  const known = (name: string): boolean => SYSCALLS[arch].has(name);
  for (const name of BASE.trim().split(/\s+/)) if (known(name)) note(seen, name, 0n);
  for (const { number, argument } of calls) note(seen, numbers.get(number) ?? "", argument);
  if (merged !== undefined) merge(seen, merged, arch);
  if (NEW_PROCESS.some((name) => seen.names.has(name)))
    NEW_PROCESS.filter(known).forEach((name) => seen.names.add(name));
  const plain = [...seen.names].filter((name) => name !== CLONE).toSorted();
  return {
    defaultAction: "SCMP_ACT_ERRNO",
    defaultErrnoRet: 1,
    architectures: [OCI_ARCH[arch]],
    syscalls: [
      { names: plain, action: "SCMP_ACT_ALLOW" },
      ...conditional(seen),
      ...PROFILE.pretended.map(({ name, tests, errno }) => ({
        names: [name],
        action: "SCMP_ACT_ERRNO",
        errnoRet: errno,
        args: tests.map(renderArgument),
      })),
      { names: PROFILE.absent.filter(known), action: "SCMP_ACT_ERRNO", errnoRet: ENOSYS },
    ],
  };
}
