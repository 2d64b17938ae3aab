import { BulkheadError, type Plan, type Spec } from "@bulkhead/contract";
import type { Driver } from "../drivers/driver.ts";
import type { HostFacts } from "../host/facts.ts";
import { digestOf, encode } from "./bpf.ts";
import { compileGiven } from "./given.ts";
import { guessOf, parseProfile, type GivenProfile } from "./parse.ts";
import type { Architecture } from "./syscalls.ts";

/** What `uname -r` says inside gVisor, of every release. */
const SENTRY_RELEASE = "4.4.0";
const SHOWN_NAMES = 20;
/** Configure is one frame of 64 KiB: the program takes half of it at most, the variables the rest, less what is small. */
const VARIABLES_MAX_BYTES = 28 * 1024;

export interface Applied {
  readonly plan: Plan;
  /** For the agent: the kernel's form. Empty without a profile. */
  readonly filter: Uint8Array;
}

function architecture(host: HostFacts): Architecture {
  if (host.arch === "x64" || host.arch === "arm64") return host.arch;
  throw new BulkheadError("HOST_UNSUPPORTED", {
    what: `there is no table of system calls for ${host.arch}`,
    next: "use an x86_64 or arm64 machine",
  });
}

type Given = NonNullable<Spec["seccomp"]>;

/** The profile as it is judged before a level is known; throws what is wrong with it. */
export function checkProfile({ name, json }: Given, host: HostFacts): void {
  const arch = architecture(host);
  compileGiven(parseProfile(name, json, { arch, kernelRelease: host.kernelRelease, capabilities: [] }), arch);
}

function kernelRelease(kernel: Plan["boundary"]["kernel"], host: HostFacts): string {
  const guest = host.guestKernel?.release ?? host.kernelRelease;
  return { shared: host.kernelRelease, sentry: SENTRY_RELEASE, guest }[kernel];
}

function unknownNames({ name, unknown }: GivenProfile): string[] {
  if (unknown.length === 0) return [];
  const shown = unknown.slice(0, SHOWN_NAMES).map((word) => {
    const guess = guessOf(word);
    return guess === undefined ? word : `${word} (did you mean ${guess}?)`;
  });
  const more = unknown.length > shown.length ? ` and ${unknown.length - shown.length} more` : "";
  return [`seccomp profile ${name} names calls that no kernel has, which changes nothing: ${shown.join(", ")}${more}`];
}

function refuseRaising(plan: Plan, driver: Driver): void {
  if (plan.boundary.noNewPrivileges || driver.capabilities.filtersRaisedPrivileges) return;
  throw new BulkheadError("LEVEL_UNAVAILABLE", {
    what: `a seccomp profile cannot be had together with set-user-id programs at ${plan.level}`,
    why: "the kernel takes a filter only from a program that can never raise its privileges",
    next: "leave out --allow-setuid or --seccomp, or use microvm, which has both",
  });
}

/**
 * A plan with the profile that was asked for, and the profile compiled.
 * @throws BulkheadError SPEC_INVALID, LEVEL_UNAVAILABLE.
 */
export function applyProfile(plan: Plan, given: Given, driver: Driver, host: HostFacts): Applied {
  refuseRaising(plan, driver);
  const { boundary } = plan;
  const arch = architecture(host);
  const native = {
    arch,
    kernelRelease: kernelRelease(boundary.kernel, host),
    capabilities: boundary.capabilitiesUser,
  };
  const profile = parseProfile(given.name, given.json, native);
  const { program, calls, byArgument } = compileGiven(profile, arch);
  const filter = encode(program);
  const variables = Buffer.byteLength(Object.entries(plan.process.env).flat().join("===="));
  if (variables > VARIABLES_MAX_BYTES) {
    throw new BulkheadError("SPEC_INVALID", {
      what: `the variables have ${variables} bytes`,
      why: `with a seccomp profile they have ${VARIABLES_MAX_BYTES} at most`,
      next: "pass fewer variables, or write them into a file inside",
    });
  }
  const some = byArgument === 0 ? "" : `, ${byArgument} of them not with all arguments`;
  return {
    filter,
    plan: {
      ...plan,
      boundary: {
        ...boundary,
        givenSeccomp: { name: given.name, digest: digestOf(filter), calls, byArgument, unknown: profile.unknown },
      },
      reasons: [
        ...plan.reasons,
        `seccomp profile ${given.name} lets ${calls} calls through${some}; every program gets it besides what the level has, so it only narrows that`,
        ...unknownNames(profile),
      ],
    },
  };
}
