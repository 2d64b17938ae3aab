import type { ArgumentTest, Profile } from "./profile.ts";
import { SYSCALLS, type Architecture } from "../../../seccomp/syscalls.ts";

export const OCI_ARCH: Readonly<Record<Architecture, string>> = { x64: "SCMP_ARCH_X86_64", arm64: "SCMP_ARCH_AARCH64" };
const EPERM = 1;
const ENOSYS = 38;

interface OciArgument {
  readonly index: number;
  readonly value: number;
  readonly valueTwo: number;
  readonly op: "SCMP_CMP_MASKED_EQ";
}

export interface OciEntry {
  readonly names: readonly string[];
  readonly action: "SCMP_ACT_ALLOW" | "SCMP_ACT_ERRNO";
  readonly errnoRet?: number;
  readonly args?: readonly OciArgument[];
}

/** `linux.seccomp` of the OCI runtime specification. */
export interface OciSeccomp {
  readonly defaultAction: "SCMP_ACT_ERRNO";
  readonly defaultErrnoRet: number;
  readonly architectures: readonly string[];
  readonly syscalls: readonly OciEntry[];
}

// A masked comparison looks at 32 bits only, as the kernel does for these arguments.
export const renderArgument = (test: ArgumentTest): OciArgument => ({
  index: test.index,
  value: test.mask,
  valueTwo: test.value,
  op: "SCMP_CMP_MASKED_EQ",
});

/** The profile for runtimes that compile it themselves. Only the native architecture: all others end the process. */
export function renderOci(profile: Profile, arch: Architecture): OciSeccomp {
  const known = (name: string): boolean => SYSCALLS[arch].has(name);
  const conditional = profile.conditional.filter((call) => known(call.name));
  return {
    defaultAction: "SCMP_ACT_ERRNO",
    defaultErrnoRet: EPERM,
    architectures: [OCI_ARCH[arch]],
    syscalls: [
      { names: profile.allowed.filter(known), action: "SCMP_ACT_ALLOW" },
      ...conditional.flatMap((call) =>
        call.alternatives.map((tests) => ({
          names: [call.name],
          action: "SCMP_ACT_ALLOW" as const,
          args: tests.map(renderArgument),
        })),
      ),
      ...profile.pretended.map(({ name, tests, errno }) => ({
        names: [name],
        action: "SCMP_ACT_ERRNO" as const,
        errnoRet: errno,
        args: tests.map(renderArgument),
      })),
      { names: profile.absent.filter(known), action: "SCMP_ACT_ERRNO", errnoRet: ENOSYS },
    ],
  };
}
