import assert from "node:assert/strict";
import { eventually, fails, theme, within } from "../check.ts";
import type { Box, RunResult } from "../box.ts";
import type { Target } from "../target.ts";

const cannotElevate = (target: Target): string | null =>
  target.traits.elevation === "none" ? "no_new_privs forbids it at this level, which a check of its own sees to" : null;

/** What the sandbox's own configuration of sudo would decide differently at levels where it is Debian's. */
const notTheAgents = (target: Target): string | null =>
  target.traits.elevation === "agent" ? null : "sudo is the image's own at this level";

const text = (result: RunResult): string => result.stdout.toString();

const runningSleeps = async (box: Box, length: string): Promise<number> =>
  (await box.processes()).filter(({ command }) => command === `sleep ${length}`).length;

export const sudoChecks = theme("sudo", "function", (check) => {
  check("sudo raises privileges where the level allows it, and nowhere else", async ({ box, target }) => {
    const result = await box.run(["sudo", "-n", "id", "-u"]);
    if (target.traits.elevation !== "none") assert.equal(text(result), "0\n", result.stderr.toString());
    else {
      assert.notEqual(result.code, 0);
      assert.match(result.stderr.toString(), /no new privileges/);
    }
  });

  check(
    "sudo works when the spec allows set-user-id and the plan names it, or the spec is refused",
    async ({ fresh, open, target }) => {
      if (target.traits.elevation === "agent") {
        await fails("LEVEL_UNAVAILABLE", () => open.create({ allowSetuid: true }));
        return;
      }
      const plan = await open.plan({ allowSetuid: true });
      if (target.traits.elevation === "none") {
        assert.ok(
          plan?.boundary.weakened.some((w) => /setuid|set-user-id/i.test(w)),
          "the plan does not name it",
        );
      }
      const own = await fresh({ allowSetuid: true });
      const result = await own.run(["sudo", "-n", "id", "-u"]);
      assert.equal(text(result), "0\n", result.stderr.toString());
      assert.equal(result.stderr.toString(), "", "it warns");
    },
    { notFor: (target) => (target.traits.level === null ? "it has neither spec nor plan" : null) },
  );

  check(
    "the command is another user, with that user's groups",
    async ({ box }) => {
      const script =
        'sudo -u user id -un; sudo id -un; sudo -u "#65534" id -un; sudo -g tty id -gn; sudo sudo -u user sudo id -u';
      assert.equal(text(await box.run(["sh", "-c", script])), "user\nroot\nnobody\ntty\n0\n");
    },
    { notFor: cannotElevate },
  );

  check(
    "exit codes and signals come through",
    async ({ box }) => {
      const script =
        "sudo true; echo $?; sudo sh -c 'exit 7'; echo $?; sudo sh -c 'kill -TERM $$'; echo $?; sudo no-such-command; echo $?";
      const result = await box.run(["sh", "-c", script]);
      assert.equal(text(result), "0\n7\n143\n1\n");
      assert.match(result.stderr.toString(), /sudo: no-such-command: command not found/);
      assert.equal((await box.run(["sudo", "--no-such-option", "true"])).code, 1);
    },
    { notFor: cannotElevate },
  );

  check(
    "the three streams are the caller's own",
    async ({ box }) => {
      const input = Buffer.alloc(300_000, "x");
      const result = await box.run(["sudo", "sh", "-c", "cat; echo to-err >&2"], { input });
      assert.equal(Buffer.compare(result.stdout, input), 0);
      // The reference has the host's name, which its own /etc/hosts does not know.
      assert.equal(result.stderr.toString().replace(/^sudo: unable to resolve host .*\n/, ""), "to-err\n");
      assert.equal(text(await box.run(["sh", "-c", "echo a | sudo cat | sudo tr a b"])), "b\n");
    },
    { notFor: cannotElevate },
  );

  check(
    "the environment is a new one, with what the caller sets",
    async ({ box }) => {
      const env = { SECRET: "1", LANG: "C.UTF-8", LD_PRELOAD: "/nowhere.so", PATH: "/evil:/usr/bin:/bin" };
      const result = await box.run(["sudo", "MINE=2", "env"], { env });
      const lines = text(result).trim().split("\n");
      for (const line of ["MINE=2", "LANG=C.UTF-8", "HOME=/root", "USER=root", "LOGNAME=root", "SUDO_USER=user"]) {
        assert.ok(lines.includes(line), `${line} is missing from ${lines.join(" ")}`);
      }
      assert.ok(!lines.some((line) => /^(SECRET|LD_PRELOAD)=/.test(line)), lines.join(" "));
      assert.equal(text(await box.run(["sudo", "-E", "printenv", "SECRET"], { env })), "1\n");
      assert.equal(text(await box.run(["sudo", "sh", "-c", "echo $PATH"], { env })).includes("/evil"), false);
    },
    { notFor: cannotElevate },
  );

  check(
    "the caller's directory stays, and -i goes to root's",
    async ({ box, scratch }) => {
      await box.run(["chmod", "700", scratch]);
      assert.equal(text(await box.run(["sudo", "-u", "nobody", "pwd"], { cwd: scratch })), `${scratch}\n`);
      assert.equal(text(await box.run(["sudo", "-i", "pwd"])), "/root\n");
    },
    { notFor: cannotElevate },
  );

  check(
    "only root and the sandbox's own user may",
    async ({ box }) => {
      const result = await box.run(["sudo", "-n", "id", "-u"], { user: "nobody" });
      assert.notEqual(result.code, 0);
      assert.equal(text(result), "");
      assert.equal(text(await box.run(["sudo", "-n", "id", "-u"], { user: "root" })), "0\n");
    },
    { notFor: cannotElevate },
  );

  check(
    "nobody can pass for another user",
    async ({ box }) => {
      // The ids that come with a message are the kernel's word, unless a sender may put its own in.
      const code = `
import array,os,socket,struct
s=socket.socket(socket.AF_UNIX); s.connect(b'\\0bulkhead/sudo'); s.recv(64)
rights=(socket.SOL_SOCKET,socket.SCM_RIGHTS,array.array('i',[0,1,2]))
for uid in (0,1000):
    try: s.sendmsg([b'\\1'],[rights,(socket.SOL_SOCKET,socket.SCM_CREDENTIALS,struct.pack('3i',os.getpid(),uid,uid))]); print('sent')
    except OSError as e: print('refused')
s.sendmsg([b'\\1'],[rights])
print(s.recv(300)[4:])`;
      const result = await box.run(["python3", "-c", code], { user: "nobody" });
      assert.match(text(result), /^refused\nrefused\nb".*user 65534 may not/);
    },
    { notFor: notTheAgents },
  );

  check(
    "a signal to sudo reaches the command, and sudo's end is the command's",
    async ({ box }) => {
      const length = `${90_000 + Math.floor(Math.random() * 9999)}`;
      assert.equal((await box.run(["timeout", "1", "sudo", "sleep", length])).code, 124);
      assert.equal(await runningSleeps(box, length), 0);
      const killed = await box.run(["sh", "-c", `sudo sleep ${length} & sleep 1; kill -KILL $!; wait $!; echo $?`]);
      assert.equal(text(killed), "137\n");
      await eventually("the command's end", async () => (await runningSleeps(box, length)) === 0);
    },
    { notFor: notTheAgents },
  );

  check(
    "many at once, and more than there is room for are refused",
    async ({ box }) => {
      const script = "for i in $(seq 50); do sudo sh -c 'sleep 0.5; echo x' & done | wc -l; wait";
      assert.equal(text(await box.run(["sh", "-c", script])).trim(), "50");
      const more = "for i in $(seq 80); do sudo sleep 8 2>&1 & done | grep -c 'end one first'; wait; sudo echo again";
      const result = await box.run(["sh", "-c", more]);
      assert.match(text(result), /^[1-9]\d*\nagain\n$/);
    },
    { notFor: notTheAgents },
  );

  check(
    "at a terminal the command has the terminal",
    async ({ box }) => {
      const pty = await box.pty(
        ["sudo", "sh", "-c", "test -t 0 && test -t 1 && stty size; read line; echo got-$line; sleep 60"],
        { rows: 33, cols: 101 },
      );
      let shown = "";
      pty.output.on("data", (part: Buffer) => (shown += part.toString("latin1")));
      await eventually("the size", () => shown.includes("33 101"));
      pty.input.write("word\n");
      await eventually("the line", () => shown.includes("got-word"));
      pty.input.write("\x03");
      const exit = await within("end by ctrl-c", 10_000, pty.exit);
      assert.deepEqual(exit, { code: null, signal: "SIGINT" });
    },
    { notFor: cannotElevate },
  );

  check(
    "a shell at a terminal controls its jobs, and everything it wrote is seen",
    async ({ box }) => {
      const pty = await box.pty(["bash", "--norc", "-i"], { rows: 24, cols: 80, env: { PS1: "P> " } });
      let shown = "";
      pty.output.on("data", (part: Buffer) => (shown += part.toString("latin1")));
      let read = 0;
      // Typed ahead, a line may be read by the shell that waits for this one, or lose its first bytes to an interrupt.
      const type = async (what: string, told: RegExp): Promise<void> => {
        await eventually(`a prompt before ${what}`, () => /(?:P>|#) $/.test(shown.slice(read)));
        read = shown.length;
        pty.input.write(`${what}\n`);
        await eventually(`what ${what} tells`, () => told.test(shown.slice(read)), 30_000);
      };
      await type("sudo bash --norc -i", /(?:P>|#) $/);
      await type("echo user-$(id -u)", /user-0/);
      await type("(sleep 1; echo asleep-$((2+3))) & sleep 60; echo not-$((1+1))", /asleep-5/);
      read = shown.length;
      pty.input.write("\x03");
      // At gVisor the shell may hear of the interrupt after its prompt, and draw over it: another line gives another one.
      await eventually("a prompt after the interrupt", async () => {
        await new Promise((resolve) => setTimeout(resolve, 500));
        if (/(?:P>|#) $/.test(shown.slice(read))) return true;
        pty.input.write("\n");
        return false;
      });
      await type("sleep 61 & jobs; kill %1; echo alive-$((40+2))", /alive-42/);
      assert.match(shown, /\[\d\].*Running.*sleep 61/);
      assert.doesNotMatch(shown, /no job control|not-2/);
      await type("exit 3", /exit\r\n[^]*P> $/);
      await type("echo code-$?; sudo seq 30000; exit 4", /code-3\r\n/);
      assert.deepEqual(await within("exit", 20_000, pty.exit), { code: 4, signal: null });
      // runsc applies the settings of a terminal to what still waits in it, so the end may have a carriage return more.
      await eventually("the last line", () => /30000\r+\n/.test(shown));
    },
    { notFor: cannotElevate },
  );
});
