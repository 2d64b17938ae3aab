import assert from "node:assert/strict";
import type { Box } from "../box.ts";
import { fails, theme } from "../check.ts";

/** Prints its arguments as Linux has them, each ended by NUL. */
const ARGV = 'import os,sys; sys.stdout.buffer.write(b"".join(os.fsencode(a)+b"\\0" for a in sys.argv[1:]))';

async function ids(box: Box, user?: string): Promise<{ uid: number; gid: number; groups: number[] }> {
  const code =
    "import os,json; print(json.dumps({'uid':os.getuid(),'gid':os.getgid(),'groups':sorted(os.getgroups())}))";
  const result = await box.run(["python3", "-c", code], user === undefined ? {} : { user });
  assert.equal(result.code, 0, result.stderr.toString());
  return JSON.parse(result.stdout.toString()) as { uid: number; gid: number; groups: number[] };
}

async function out(box: Box, argv: readonly string[], options = {}): Promise<string> {
  const result = await box.run(argv, options);
  assert.equal(result.code, 0, result.stderr.toString());
  return result.stdout.toString();
}

export const execChecks = theme("exec", "function", (check) => {
  check("arguments arrive byte for byte", async ({ box }) => {
    const args = ["", " ", "a b", "'\"$`\\", "line\nbreak", "*", "--", "-x", "ünïcode ✓", "tab\t"];
    const result = await box.run(["python3", "-c", ARGV, ...args]);
    const expected = Buffer.concat(args.map((a) => Buffer.from(`${a}\0`)));
    assert.deepEqual(result.stdout, expected, result.stderr.toString());
  });

  check("an argument of 60,000 bytes arrives, one beyond the channel's limit is refused", async ({ box }) => {
    const code = "import sys; print(len(sys.argv[1]))";
    const long = await box.run(["python3", "-c", code, "x".repeat(60_000)]);
    assert.equal(long.stdout.toString(), "60000\n", long.stderr.toString());
    await fails("SPEC_INVALID", () => box.run(["python3", "-c", code, "x".repeat(100_000)]));
  });

  check("300 arguments", async ({ box }) => {
    const many = Array.from({ length: 300 }, (_, i) => String(i));
    assert.equal((await out(box, ["printf", "%s\\n", ...many])).trimEnd(), many.join("\n"));
  });

  check("environment: given, with odd values, and later wins", async ({ box }) => {
    const env = { ODD: "a=b\nc 'd' \"e\"", EMPTY: "", PATH: "/usr/bin:/bin:/extra" };
    const code = "import os,json; print(json.dumps({k: os.environ.get(k) for k in ['ODD','EMPTY','PATH','ABSENT']}))";
    const got = JSON.parse(await out(box, ["python3", "-c", code], { env })) as unknown;
    assert.deepEqual(got, { ...env, ABSENT: null });
  });

  check("environment: PATH, HOME, USER and LOGNAME of the user, nothing of the host's", async ({ box }) => {
    const names = (await out(box, ["env"], {}))
      .trimEnd()
      .split("\n")
      .map((line) => line.slice(0, line.indexOf("=")));
    for (const name of ["PATH", "HOME", "USER", "LOGNAME"]) assert.ok(names.includes(name), `${name} is missing`);
    const allowed = new Set([
      "PATH",
      "HOME",
      "USER",
      "LOGNAME",
      "SHELL",
      "LANG",
      "LC_ALL",
      "HOSTNAME",
      "TERM",
      "PWD",
      "_",
      "SHLVL",
    ]);
    assert.deepEqual(
      names.filter((name) => !allowed.has(name)),
      [],
    );
  });

  check("environment of the spec reaches every process", async ({ fresh }) => {
    const own = await fresh({ env: { FROM_SPEC: "yes", OVERRIDE: "spec" } });
    const text = await out(own, ["sh", "-c", "echo $FROM_SPEC $OVERRIDE"], { env: { OVERRIDE: "exec" } });
    assert.equal(text, "yes exec\n");
  });

  check("working directory: the user's home by default", async ({ box }) => {
    assert.equal(await out(box, ["pwd"]), "/home/user\n");
  });

  check("working directory: as given", async ({ box }) => {
    assert.equal(await out(box, ["pwd"], { cwd: "/usr/share" }), "/usr/share\n");
  });

  check("working directory that does not exist", async ({ box }) => {
    await fails("WORKDIR_NOT_FOUND", () => box.run(["true"], { cwd: "/no/such/place" }));
  });

  check("working directory that is a file", async ({ box }) => {
    await fails(["WORKDIR_NOT_FOUND", "FILE_NOT_A_DIRECTORY"], () => box.run(["true"], { cwd: "/etc/passwd" }));
  });

  check("default user is `user`, not root", async ({ box }) => {
    const got = await ids(box);
    assert.equal(got.uid, 1000);
    assert.equal(got.gid, 1000);
  });

  check("user by name, by uid, by uid:gid, by name:group", async ({ box }) => {
    assert.equal((await ids(box, "root")).uid, 0);
    assert.deepEqual(await ids(box, "1000"), await ids(box, "user"));
    const mixed = await ids(box, "1234:2345");
    assert.deepEqual([mixed.uid, mixed.gid], [1234, 2345]);
    const grouped = await ids(box, "user:root");
    assert.deepEqual([grouped.uid, grouped.gid], [1000, 0]);
  });

  check("supplementary groups are the user's, never process 1's", async ({ box }) => {
    const expected = (await out(box, ["id", "-G", "user"])).trim().split(" ").map(Number);
    const got = await ids(box, "user");
    const ascending = (a: number, b: number): number => a - b;
    assert.deepEqual([...new Set([got.gid, ...got.groups])].sort(ascending), expected.sort(ascending));
    assert.deepEqual(
      (await ids(box, "1234:2345")).groups.filter((g) => g !== 2345),
      [],
    );
  });

  check("user that does not exist", async ({ box }) => {
    await fails("USER_NOT_FOUND", () => box.run(["true"], { user: "nobody-of-this-name" }));
    await fails("USER_NOT_FOUND", () => box.run(["true"], { user: "user:no-such-group" }));
  });

  check("resource limits are set exactly", async ({ box }) => {
    const code =
      "import resource as r; print(r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_CORE), r.getrlimit(r.RLIMIT_FSIZE))";
    const rlimits = { nofile: { soft: 100, hard: 200 }, core: { soft: 0, hard: 0 }, fsize: { soft: 4096, hard: 8192 } };
    assert.equal(await out(box, ["python3", "-c", code], { rlimits }), "(100, 200) (0, 0) (4096, 8192)\n");
  });

  check("every exit code from 0 to 255", async ({ box }) => {
    const codes = Array.from({ length: 256 }, (_, i) => i);
    for (let i = 0; i < 256; i += 16) {
      const got = await Promise.all(codes.slice(i, i + 16).map((c) => box.run(["sh", "-c", `exit ${c}`])));
      assert.deepEqual(
        got.map((r) => [r.code, r.signal]),
        codes.slice(i, i + 16).map((c) => [c, null]),
      );
    }
  });

  check("death by signal is named, and is no exit code", async ({ box }) => {
    for (const name of ["HUP", "INT", "QUIT", "ABRT", "KILL", "USR1", "SEGV", "PIPE", "ALRM", "TERM"]) {
      const result = await box.run(["sh", "-c", `ulimit -c 0; kill -${name} $$`]);
      assert.deepEqual([result.code, result.signal], [null, `SIG${name}`]);
    }
  });

  check("command that is not there", async ({ box }) => {
    const error = await fails("COMMAND_NOT_FOUND", () => box.run(["no-such-program"]));
    assert.match(error.message, /no-such-program/);
    await fails("COMMAND_NOT_FOUND", () => box.run(["/no/such/program"]));
  });

  check("command that is not executable", async ({ box, scratch }) => {
    const error = await fails("COMMAND_NOT_EXECUTABLE", () => box.run(["/etc/passwd"]));
    assert.match(error.message, /\/etc\/passwd/);
    await fails("COMMAND_NOT_EXECUTABLE", () => box.run([scratch]));
  });

  check("script with an interpreter line, and PATH from the environment given", async ({ box, scratch }) => {
    await box.files.write(`${scratch}/tool`, '#!/bin/sh\necho "tool $0 $1"\n', { mode: 0o755 });
    const text = await out(box, ["tool", "arg"], { env: { PATH: `${scratch}:/usr/bin:/bin` } });
    assert.equal(text, `tool ${scratch}/tool arg\n`);
  });

  check("program relative to the working directory", async ({ box, scratch }) => {
    await box.files.write(`${scratch}/here`, "#!/bin/sh\necho here\n", { mode: 0o755 });
    assert.equal(await out(box, ["./here"], { cwd: scratch }), "here\n");
  });

  check("a program gets no descriptor but its three", async ({ box }) => {
    const text = await out(box, ["python3", "-c", "import os; print(sorted(os.listdir('/proc/self/fd'), key=int))"]);
    // The fourth is the listing's own.
    assert.equal(text, "['0', '1', '2', '3']\n");
  });

  check(
    "signals start unblocked and at their defaults",
    async ({ box }) => {
      const text = await out(box, ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
      // 32 and 33 are the C library's own; its way of starting processes ignores them in the child.
      const own = 0x1_8000_0000n;
      for (const line of text.trimEnd().split("\n")) assert.equal(BigInt(`0x${line.split("\t")[1]}`) & ~own, 0n, line);
    },
    { notFor: (t) => (t.traits.level === "gvisor" ? "its /proc does not show signal masks" : null) },
  );

  check("an empty command is refused", async ({ box }) => {
    await fails(["SPEC_INVALID", "COMMAND_NOT_FOUND"], () => box.run([]));
    await fails(["SPEC_INVALID", "COMMAND_NOT_FOUND"], () => box.run([""]));
  });
});
