import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BulkheadError, type Plan } from "@bulkhead/contract";
import { describe, expect, onTestFinished, test } from "vitest";
import { absentFrom } from "./landing.ts";
import { commandOf, programOf } from "./program.ts";

const planOf = (run: ReturnType<typeof programOf>["run"]): Plan =>
  ({ image: { reference: "some" }, process: run }) as unknown as Plan;

function code(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof BulkheadError) return error.code;
    throw error;
  }
  return "no error";
}

describe("what runs", () => {
  const image = { entrypoint: ["/entry", "-x"], cmd: ["serve"] };
  const cases: ReadonlyArray<[string, object, object, readonly string[], readonly string[]]> = [
    ["entrypoint and command of the image", image, {}, [], ["/entry", "-x", "serve"]],
    ["a given command in place of the image's", image, {}, ["sh", "-c", "x"], ["/entry", "-x", "sh", "-c", "x"]],
    ["a given entrypoint in place of both", image, { entrypoint: ["/own"] }, [], ["/own"]],
    ["a given entrypoint before a given command", image, { entrypoint: ["/own"] }, ["a"], ["/own", "a"]],
    ["no entrypoint, when that is given", image, { entrypoint: [] }, ["sh"], ["sh"]],
    ["the image's command alone", { cmd: ["bash"] }, {}, [], ["bash"]],
  ];
  test.each(cases)("%s", (_, said, spec, args, argv) => {
    expect(commandOf(planOf(programOf(spec, said).run), args)).toEqual(argv);
  });

  test("nothing, where nobody says what: refused", () => {
    expect(code(() => commandOf(planOf(programOf({}, {}).run), []))).toBe("COMMAND_MISSING");
    expect(code(() => commandOf(planOf(programOf({ entrypoint: [] }, image).run), []))).toBe("COMMAND_MISSING");
  });
});

describe("how it is ended", () => {
  const cases: ReadonlyArray<[string | undefined, string | null, string]> = [
    [undefined, null, "SIGTERM"],
    [undefined, "SIGQUIT", "SIGQUIT"],
    [undefined, "3", "SIGQUIT"],
    [undefined, "SIGRTMIN+3", "SIG37"],
    ["int", "SIGQUIT", "SIGINT"],
    ["RTMAX-1", null, "SIG63"],
    ["SIG37", null, "SIG37"],
  ];
  test.each(cases)("asked for %s, the image says %s: %s", (asked, said, signal) => {
    const spec = asked === undefined ? {} : { stopSignal: asked };
    expect(programOf(spec, { stopSignal: said }).run.stop).toEqual({ signal, timeoutMs: 10_000 });
  });

  test("an unknown signal is refused, whose ever it is", () => {
    for (const unknown of ["SIGNOPE", "0", "65", "RTMIN-1", "RTMAX+1", "RTMIN+31"]) {
      expect(code(() => programOf({}, { stopSignal: unknown }))).toBe("IMAGE_INVALID");
      expect(code(() => programOf({ stopSignal: unknown }, {}))).toBe("SPEC_INVALID");
    }
    expect(code(() => programOf({ stopSignal: "TERM" }, { stopSignal: "SIGNOPE" }))).toBe("no error");
  });
});

test("directories that an image promises are made where it does not have them, and nowhere else", async () => {
  const rootfs = mkdtempSync(join(tmpdir(), "bulkhead-promised-"));
  onTestFinished(() => rmSync(rootfs, { recursive: true }));
  mkdirSync(join(rootfs, "there"));
  writeFileSync(join(rootfs, "file"), "");
  symlinkSync("/there", join(rootfs, "link"));
  symlinkSync("/proc", join(rootfs, "kernel"));
  symlinkSync("..", join(rootfs, "up"));
  const named = [
    "/there",
    "/link",
    "/file",
    "/new",
    "/link/new",
    "/up/up/new",
    "/kernel/new",
    "/dev/new",
    "/a/b",
    "new",
  ];
  const absent = await absentFrom(rootfs, named, [{ target: "/a" }]);
  expect(absent).toEqual(["/new", "/link/new", "/up/up/new"]);
  await expect(
    absentFrom(
      rootfs,
      Array.from({ length: 129 }, (_, i) => `/${i}`),
      [],
    ),
  ).rejects.toMatchObject({
    code: "IMAGE_INVALID",
  });
});
