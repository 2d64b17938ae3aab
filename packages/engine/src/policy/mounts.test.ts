import { chown, mkdtemp, mkdir, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { checkMounts } from "./mounts.ts";

let dir = "";
let state = "";

beforeAll(async () => {
  dir = await realpath(await mkdtemp(join(tmpdir(), "bulkhead-mounts-")));
  state = join(dir, "own/state");
  await mkdir(state, { recursive: true });
  await mkdir(join(dir, "data"));
  await writeFile(join(dir, "file"), "x");
  await symlink(join(dir, "data"), join(dir, "link"));
  await symlink("/proc", join(dir, "trick"));
  await symlink(state, join(dir, "trick2"));
});
afterAll(() => rm(dir, { recursive: true }));

const one = (source: string, target: string, readOnly = false) => checkMounts([{ source, target, readOnly }], [state]);
const at = (path: string) => join(dir, path);

describe("accepted", () => {
  test("a directory and a file", async () => {
    expect(await one(at("data"), "/data", true)).toMatchObject([
      { source: at("data"), target: "/data", readOnly: true },
    ]);
    expect(await one(at("file"), "/etc/file")).toHaveLength(1);
  });

  test("the plan says whose the source is", async () => {
    await chown(at("file"), 501, 20);
    expect((await one(at("file"), "/f"))[0]?.owner).toEqual({ uid: 501, gid: 20 });
  });

  test("a link is followed, and the plan names where it led", async () => {
    expect((await one(at("link"), "/data"))[0]?.source).toBe(at("data"));
  });

  test("parents come before children", async () => {
    const mounts = [
      { source: at("file"), target: "/a/b", readOnly: false },
      { source: at("data"), target: "/a", readOnly: false },
    ];
    expect((await checkMounts(mounts, [])).map((m) => m.target)).toEqual(["/a", "/a/b"]);
  });
});

describe("refused", () => {
  const cases: ReadonlyArray<[string, () => Promise<unknown>, RegExp]> = [
    ["a source that does not exist", () => one(at("nope"), "/x"), /nope" does not exist/],
    ["the host's proc", () => one("/proc", "/x"), /refused/],
    ["below the host's sys", () => one("/sys/kernel", "/x"), /refused/],
    ["a device", () => one("/dev/null", "/x"), /refused/],
    ["a link into proc", () => one(at("trick"), "/x"), /which is "\/proc", is refused/],
    ["a link into our state", () => one(at("trick2"), "/x"), /is refused/],
    ["a parent of our state", () => one(at("own"), "/x"), /is refused/],
    ["the host's root", () => one("/", "/x"), /is refused/],
    ["the target /", () => one(at("data"), "/"), /refused/],
    ["a target below /proc", () => one(at("data"), "/proc/1"), /refused/],
    ["a target over the agent", () => one(at("data"), "/.bulkhead"), /refused/],
    ["a target with ..", () => one(at("data"), "/a/../proc"), /not valid/],
    ["a target with //", () => one(at("data"), "//proc"), /not valid/],
  ];
  test.each(cases)("%s", async (_, act, what) => {
    await expect(act()).rejects.toMatchObject({
      code: "MOUNT_INVALID",
      message: expect.stringMatching(what) as string,
    });
  });

  test("a socket", async () => {
    const server = createServer().listen(at("socket"));
    await new Promise((done) => server.once("listening", done));
    await expect(one(at("socket"), "/x")).rejects.toMatchObject({
      message: expect.stringMatching(/neither/) as string,
    });
    server.close();
  });

  test("one target twice", async () => {
    const mount = { source: at("data"), target: "/x", readOnly: false };
    await expect(checkMounts([mount, { ...mount, target: "/x/" }], [])).rejects.toThrow(/twice/);
  });
});

test("no spelling of a target reaches what is kept", async () => {
  const part = fc.constantFrom("proc", "sys", "dev", ".bulkhead", ".", "..", "", "a");
  await fc.assert(
    fc.asyncProperty(fc.array(part, { minLength: 1, maxLength: 5 }), async (parts) => {
      const accepted = await one(at("data"), `/${parts.join("/")}`).catch(() => undefined);
      const target = accepted?.[0]?.target;
      if (target !== undefined) expect(target).not.toMatch(/^\/(proc|sys|dev|\.bulkhead)?(\/|$)/);
    }),
  );
});
