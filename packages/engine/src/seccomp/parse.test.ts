import type { BulkheadError } from "@bulkhead/contract";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ALLOW, ERRNO, KILL_PROCESS, KILL_THREAD, LOG, TRAP } from "./bpf.ts";
import { parseProfile, type GivenProfile, type Native } from "./parse.ts";

const native: Native = { arch: "x64", kernelRelease: "6.1.0-13-amd64", capabilities: ["CAP_CHOWN"] };
const ALLOWED = "SCMP_ACT_ALLOW";
const REFUSED = "SCMP_ACT_ERRNO";

const parse = (profile: unknown, at: Partial<Native> = {}): GivenProfile =>
  parseProfile("p.json", typeof profile === "string" ? profile : JSON.stringify(profile), { ...native, ...at });
const entry = (fields: object) => ({
  defaultAction: REFUSED,
  syscalls: [{ names: ["read"], action: ALLOWED, ...fields }],
});

function refused(profile: unknown): BulkheadError {
  try {
    parse(profile);
  } catch (error) {
    return error as BulkheadError;
  }
  throw new Error(`accepted ${JSON.stringify(profile)}`);
}

describe("actions", () => {
  test.each([
    ["SCMP_ACT_ALLOW", ALLOW],
    ["SCMP_ACT_LOG", LOG],
    ["SCMP_ACT_ERRNO", ERRNO | 1],
    ["SCMP_ACT_TRAP", TRAP],
    ["SCMP_ACT_KILL", KILL_THREAD],
    ["SCMP_ACT_KILL_THREAD", KILL_THREAD],
    ["SCMP_ACT_KILL_PROCESS", KILL_PROCESS],
  ])("%s", (word, verdict) => {
    expect(parse({ defaultAction: word }).defaultAction).toBe(verdict);
    expect(parse(entry({ action: word })).rules).toEqual([{ name: "read", action: verdict, comparisons: [] }]);
  });

  test("error numbers, as OCI and as Podman write them", () => {
    expect(parse({ defaultAction: REFUSED, defaultErrnoRet: 38 }).defaultAction).toBe(ERRNO | 38);
    expect(parse({ defaultAction: REFUSED, defaultErrno: "ENOSYS", defaultErrnoRet: 38 }).defaultAction).toBe(
      ERRNO | 38,
    );
    expect(parse(entry({ action: REFUSED, errno: "EACCES" })).rules[0]?.action).toBe(ERRNO | 13);
  });
});

describe("Docker's conditions", () => {
  const applied = (fields: object, at: Partial<Native> = {}): boolean => parse(entry(fields), at).rules.length > 0;
  test.each<[object, boolean]>([
    [{ includes: { caps: ["CAP_CHOWN"] } }, true],
    [{ includes: { caps: ["CAP_CHOWN", "CAP_SYS_ADMIN"] } }, false],
    [{ excludes: { caps: ["CAP_SYS_ADMIN"] } }, true],
    [{ excludes: { caps: ["CAP_SYS_ADMIN", "CAP_CHOWN"] } }, false],
    [{ includes: { arches: ["amd64", "x32"] } }, true],
    [{ includes: { arches: ["s390", "s390x"] } }, false],
    [{ excludes: { arches: ["amd64"] } }, false],
    [{ includes: { minKernel: "4.8" } }, true],
    [{ includes: { minKernel: "6.1" } }, true],
    [{ includes: { minKernel: "6.2" } }, false],
    [{ excludes: { minKernel: "4.8" } }, false],
    [{ includes: {}, excludes: {} }, true],
  ])("%j", (fields, expected) => expect(applied(fields)).toBe(expected));

  test("without capabilities none is there", () =>
    expect(applied({ includes: { caps: ["CAP_CHOWN"] } }, { capabilities: [] })).toBe(false));
});

test("the old single name, null for no args, a map of architectures", () => {
  const profile = {
    defaultAction: REFUSED,
    archMap: [{ architecture: "SCMP_ARCH_X86_64", subArchitectures: ["SCMP_ARCH_X86"] }],
    flags: ["SECCOMP_FILTER_FLAG_LOG"],
    syscalls: [{ name: "read", action: ALLOWED, args: null, comment: "" }],
  };
  expect(parse(profile).rules).toEqual([{ name: "read", action: ALLOW, comparisons: [] }]);
});

test("64-bit values stay exact", () => {
  const text = `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["clone"],"action":"SCMP_ACT_ALLOW",
    "args":[{"index":0,"value":18446744073709551615,"valueTwo":9007199254740993,"op":"SCMP_CMP_MASKED_EQ"}]}]}`;
  expect(parse(text).rules[0]?.comparisons).toEqual([
    { index: 0, op: "MASKED_EQ", value: 2n ** 64n - 1n, valueTwo: 9007199254740993n },
  ]);
});

test("two comparisons of one argument are alternatives, as runc has it", () => {
  const args = [
    { index: 0, value: 1, op: "SCMP_CMP_EQ" },
    { index: 0, value: 2, op: "SCMP_CMP_EQ" },
  ];
  expect(parse(entry({ args })).rules.map(({ comparisons }) => comparisons.length)).toEqual([1, 1]);
});

test("names that no kernel has are told; those of other architectures are not", () => {
  const { unknown } = parse(entry({ names: ["read", "opnat", "socketcall", "chown32", "accept", "arm_fadvise64_64"] }));
  expect(unknown).toEqual(["opnat"]);
});

describe("refused, by place, value and next step", () => {
  const first = { index: 0, value: 1, op: "SCMP_CMP_EQ" };
  const cases: readonly [unknown, RegExp, RegExp][] = [
    ["{", /the file/, /OCI/],
    ["[]", /profile \[\]/, /./],
    [{}, /defaultAction/, /./],
    [{ defaultAction: "SCMP_ACT_ALOW" }, /"SCMP_ACT_ALOW"/, /did you mean SCMP_ACT_ALLOW/],
    [{ defaultAction: "SCMP_ACT_NOTIFY" }, /NOTIFY/, /SCMP_ACT_ERRNO/],
    [{ defaultAction: ALLOWED, listenerPath: "/x" }, /listenerPath/, /remove/],
    [{ defaultAction: ALLOWED, sycalls: [] }, /sycalls/, /did you mean syscalls/],
    [{ defaultAction: ALLOWED, flags: ["TSYNC"] }, /flags/, /SECCOMP_FILTER_FLAG_TSYNC/],
    [{ defaultAction: ALLOWED, architectures: ["SCMP_ARCH_AARCH64"] }, /architectures/, /SCMP_ARCH_X86_64/],
    [{ defaultAction: ALLOWED, architectures: [{ a: 2 ** 53 }] }, /9007199254740992/, /./],
    [entry({ action: "SCMP_ACT_TRACE" }), /syscalls\[0\]\.action "SCMP_ACT_TRACE"/, /SCMP_ACT_ERRNO/],
    [entry({ names: [] }), /syscalls\[0\]\.names/, /remove the entry/],
    [entry({ names: ["re ad"] }), /"re ad"/, /correct/],
    [entry({ args: [{ ...first, index: 6 }] }), /syscalls\[0\]\.args\[0\]\.index 6/, /change/],
    [entry({ args: [{ ...first, value: -1 }] }), /value -1/, /change/],
    [entry({ args: [{ ...first, value: 1.5 }] }), /value 1.5/, /change/],
    [entry({ args: [{ ...first, op: "SCMP_CMP_EQUAL" }] }), /args\[0\]\.op/, /SCMP_CMP_EQ/],
    [entry({ action: REFUSED, errnoRet: 4096 }), /errnoRet 4096/, /change/],
    [entry({ includes: { minKernel: "new" } }), /minKernel "new"/, /MAJOR\.MINOR/],
    [entry({ includes: { capabilities: [] } }), /includes\.capabilities/, /did you mean caps|remove/],
    [entry({ names: Array.from({ length: 4097 }, () => "read") }), /names/, /list/],
    [{ defaultAction: ALLOWED, syscalls: [{ names: ["ptrce"], action: REFUSED }] }, /"ptrce"/, /did you mean ptrace/],
  ];
  test.each(cases)("%j", (profile, what, next) => {
    const error = refused(profile);
    expect(error.code).toBe("SPEC_INVALID");
    expect(error.message).toMatch(/p\.json/);
    expect(error.message).toMatch(what);
    expect(error.next).toMatch(next);
  });
});

test("nothing crashes it: junk is a typed refusal or a profile", { timeout: 120_000 }, () => {
  expect(refused("[".repeat(1_000_000)).code).toBe("SPEC_INVALID");
  const junk = fc.anything({ maxDepth: 3 });
  const like = fc.record(
    {
      defaultAction: fc.oneof(fc.constant(ALLOWED), junk),
      flags: junk,
      architectures: junk,
      archMap: fc.oneof(fc.array(junk), junk),
      syscalls: fc.array(
        fc.record(
          {
            names: fc.oneof(fc.array(fc.string()), junk),
            action: fc.oneof(fc.constant(ALLOWED), junk),
            args: fc.array(junk),
            includes: junk,
          },
          { requiredKeys: [] },
        ),
        { maxLength: 3 },
      ),
    },
    { requiredKeys: [] },
  );
  const text = fc.oneof(
    fc.string(),
    fc.oneof(like, junk).map((value) => `${JSON.stringify(value)}`),
  );
  fc.assert(
    fc.property(text, (json) => {
      try {
        parse(json);
      } catch (error) {
        expect(error).toMatchObject({ name: "BulkheadError", code: "SPEC_INVALID" });
      }
    }),
    { numRuns: 300 },
  );
});
