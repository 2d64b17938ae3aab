import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parseOptions, type OptionDef } from "./options.ts";
import { specFromOptions } from "./spec-options.ts";
import { RUN_OPTIONS } from "./verbs/table.ts";

const parse = (...words: string[]) => parseOptions("run", RUN_OPTIONS, words);
const spec = (...words: string[]) => specFromOptions(parse(...words), { HOME: "/root", EMPTY: "" });

describe("where our options end", () => {
  test("at the first word that is none", () => {
    const { values, rest } = parse("--memory", "1g", "python3", "-c", "x", "--json");
    expect(values.get("memory")).toEqual(["1g"]);
    expect(values.has("json")).toBe(false);
    expect(rest).toEqual(["python3", "-c", "x", "--json"]);
  });

  test("at --, which is dropped once", () => expect(parse("-i", "--", "--", "x").rest).toEqual(["--", "x"]));

  test("a lone - is a word", () => expect(parse("-").rest).toEqual(["-"]));

  test("whatever follows -- comes through untouched", () => {
    fc.assert(
      fc.property(fc.array(fc.string()), (words) => {
        expect(parse("-t", "--", ...words).rest).toEqual(words);
      }),
    );
  });
});

describe("spellings", () => {
  test("values may be attached", () => {
    expect(parse("--memory=1g", "-eA=1", "-e", "B=2", "-it").values).toEqual(
      new Map([
        ["memory", ["1g"]],
        ["env", ["A=1", "B=2"]],
        ["interactive", ["true"]],
        ["tty", ["true"]],
      ]),
    );
  });

  test.each([
    [["--memmory", "1g"], /unknown option --memmory/, /did you mean --memory/],
    [["-x"], /unknown option -x/, /help run/],
    [["--privileged"], /unknown option --privileged/, /help run/],
    [["--memory"], /--memory needs a value/, /--memory SIZE/],
    [["--memory", "--cpus", "1"], /--memory needs a value/, /--memory SIZE/],
    [["--json=yes"], /--json takes no value/, /write --json/],
    [["--image", "a", "--image", "b"], /--image is given twice/, /keep one/],
  ])("%j is refused", (words, what, next) => {
    expect(() => parse(...words)).toThrow(what);
    try {
      parse(...words);
    } catch (error) {
      expect((error as { next: string }).next).toMatch(next);
    }
  });

  test("no words make the reader fail in any other way", () => {
    const defs: readonly OptionDef[] = RUN_OPTIONS;
    const word = fc.oneof(fc.string(), fc.constantFrom(...defs.map((d) => `--${d.name}`), "-e", "-it", "--", "-"));
    fc.assert(
      fc.property(fc.array(word), (words) => {
        try {
          parse(...words);
        } catch (error) {
          expect(error).toMatchObject({ code: "SPEC_INVALID" });
        }
      }),
    );
  });
});

describe("a spec from options", () => {
  test("units, mounts and environment", () => {
    expect(
      spec(
        "--memory",
        "512m",
        "--timeout",
        "1m",
        "--cpus",
        ".5",
        "--cpu-weight",
        "50",
        "--inodes",
        "1000",
        "--disk-iops",
        "500",
        "--disk-bps",
        "20m",
        "--open-files",
        "256",
        "--idle-timeout",
        "30s",
        "--output-max",
        "1m",
        "--mount",
        "/a:/b:ro",
        "-e",
        "A=b=c",
        "-e",
        "HOME",
        "-e",
        "NOPE",
      ),
    ).toMatchObject({
      memoryBytes: 2 ** 29,
      timeoutMs: 60_000,
      cpus: 0.5,
      cpuWeight: 50,
      diskInodes: 1000,
      diskIops: 500,
      diskBytesPerSecond: 20 * 2 ** 20,
      openFiles: 256,
      idleTimeoutMs: 30_000,
      outputMaxBytes: 2 ** 20,
      mounts: [{ source: "/a", target: "/b", readOnly: true }],
      env: { A: "b=c", HOME: "/root" },
    });
  });

  test("what may leave", () => {
    expect(spec().network).toBe("none");
    expect(spec("--network", "none").network).toBe("none");
    expect(spec("--network", "allow:a.org,b.org:443", "--network=allow:10.0.0.1", "--net-bps", "5m").network).toEqual({
      allow: ["a.org", "b.org:443", "10.0.0.1"],
      deny: [],
      rateBytesPerSecond: 5 * 1024 * 1024,
    });
    expect(spec("--network", "deny:10.0.0.1").network).toEqual({ allow: ["*"], deny: ["10.0.0.1"] });
  });

  test("a floor", () => expect(spec("--at-least", "gvisor").isolation).toEqual({ atLeast: "gvisor" }));

  test.each([
    [["--isolation", "gvisr"], /^--isolation "gvisr"/],
    [["--at-least", "vm"], /^--at-least "vm"/],
    [["--isolation", "gvisor", "--at-least", "gvisor"], /contradict/],
    [["--memory", "0"], /^--memory 0 is not valid/],
    [["--memory", "lots"], /^--memory "lots"/],
    [["--pids", "0"], /^--pids 0/],
    [["--cpu-weight", "10001"], /^--cpu-weight 10001/],
    [["--disk-bps", "1k"], /^--disk-bps 1024/],
    [["--open-files", "1"], /^--open-files 1/],
    [["--network", "host"], /^--network "host"/],
    [["--network", "none", "--network", "allow:a.org"], /^--network none is given together/],
    [["--network", "allow:a.org,*.com"], /^--network allow "\*\.com"/],
    [["--network", "allow:"], /^--network allow ""/],
    [["--network", "allow:a.org", "--net-bps", "3"], /^--net-bps 3/],
    [["--net-bps", "3m"], /^--net-bps is given without a network/],
    [["--mount", "data:/data"], /^--mount "data:\/data"/],
    [["--mount", "/a:/b:rx"], /^--mount/],
    [["--env", "=x"], /^--env "=x" has no name/],
    [["--env-file", "/nope"], /^--env-file "\/nope" cannot be read/],
    [["--workdir", "here"], /^--workdir "here"/],
  ])("%j is refused in the words of the command line", (words, what) => expect(() => spec(...words)).toThrow(what));
});
