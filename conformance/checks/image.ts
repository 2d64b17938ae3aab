import assert from "node:assert/strict";
import type { Context } from "../check.ts";
import { eventually, fails, theme } from "../check.ts";
import { smallImage } from "../small-image.ts";

/** Says what it finds, as far as a shell can without programs. */
const ENTRY = `
echo "$FROM_IMAGE|$HOME|$(pwd)|$*"
while read -r name rest; do case $name in Uid:|Gid:|Groups:) set -- $rest; echo "$name $*";; esac; done < /proc/self/status
test -d /srv/data && echo made
read -r line < /filled/given && echo "$line"
echo more >> /filled/given && echo writable`;
/** Ends in its own words at the signal it wants, and at no other. */
const OBEDIENT = `trap 'echo stopped; exit 7' USR1; trap '' TERM; echo ready; while :; do sleep 0.05; done`;
const STUBBORN = `trap '' USR1 TERM; echo ready; while :; do sleep 0.05; done`;
/** Several sandboxes of an image that is made for them. */
const SLOW = { timeoutMs: 180_000 };

function image(context: Context): Promise<string> {
  return smallImage(context, {
    files: {
      "etc/passwd": "root:x:0:0::/root:/bin/sh\napp:x:1234:55::/home/app:/bin/sh\n",
      "etc/group": "root:x:0:\ndata:x:55:\nextra:x:66:other,app\nlast:x:77:app\n",
      entry: ENTRY,
      "filled/given": "from the image\n",
    },
    config: {
      env: { FROM_IMAGE: "yes", PATH: "/usr/bin" },
      user: "root",
      workdir: "/work/deep",
      entrypoint: ["/bin/sh"],
      cmd: ["/entry", "of", "the image"],
      stopSignal: "SIGUSR1",
      exposedPorts: ["8080/tcp"],
      volumes: ["/srv/data", "/filled"],
      labels: { maker: "conformance" },
    },
  });
}

export const imageChecks = theme("image", "host", (check) => {
  check(
    "entrypoint, command, variables, working directory and data are the image's, unless something else is asked for",
    async (context) => {
      const name = await image(context);
      const own = await context.fresh({ image: name });
      const said = await own.runProgram([]);
      assert.equal(
        said.stdout.toString(),
        "yes|/root|/work/deep|of the image\nUid: 0 0 0 0\nGid: 0 0 0 0\nGroups: 0\nmade\nfrom the image\nwritable\n",
        said.stderr.toString(),
      );
      const given = await own.runProgram(["-c", 'echo "$0|$1"', "a", "b c"]);
      assert.equal(given.stdout.toString(), "a|b c\n");
      const other = await context.fresh({ image: name, entrypoint: ["/bin/cat", "/filled/given"] });
      assert.equal(
        (await other.runProgram([])).stdout.toString(),
        "from the image\n",
        "the first one's file is changed",
      );
      await fails("COMMAND_MISSING", async () => {
        const none = await context.fresh({ image: name, entrypoint: [] });
        await none.runProgram([]);
      });
    },
    SLOW,
  );

  check(
    "a user is who the image's own database says, by name and by number, with his groups",
    async (context) => {
      const name = await image(context);
      const status = async (user: string): Promise<string> => {
        const own = await context.fresh({ image: name, user });
        const lines = (await own.runProgram([])).stdout.toString().split("\n");
        return lines.slice(0, 4).join(" ");
      };
      const start = "yes|/home/app|/work/deep|of the image Uid: 1234 1234 1234 1234";
      assert.equal(await status("app"), `${start} Gid: 55 55 55 55 Groups: 55 66 77`);
      assert.equal(await status("1234:last"), `${start} Gid: 77 77 77 77 Groups: 77`);
      assert.equal(
        await status("4321"),
        "yes|/|/work/deep|of the image Uid: 4321 4321 4321 4321 Gid: 0 0 0 0 Groups: 0",
      );
      await fails("USER_NOT_FOUND", () => status("user"));
    },
    SLOW,
  );

  check(
    "a program is ended by its image's stop signal, and when it does not end by force",
    async (context) => {
      const name = await image(context);
      for (const [script, end] of [
        [OBEDIENT, { code: 7, signal: null }],
        [STUBBORN, { code: null, signal: null }],
      ] as const) {
        const stubborn = end.code === null;
        const own = await context.fresh({ image: name, ...(stubborn && { stopTimeoutMs: 500 }) });
        const program = await own.startProgram(["-c", script]);
        let said = "";
        program.stdout.on("data", (chunk: Buffer) => (said += chunk.toString())).on("error", () => undefined);
        await eventually("the program's start", () => said.includes("ready"), 30_000);
        const exit = program.exit.catch(() => end);
        await own.stop();
        assert.deepEqual(await exit, end);
        assert.equal(said, stubborn ? "ready\n" : "ready\nstopped\n");
        await own.gone;
      }
    },
    SLOW,
  );

  check("the plan tells what the image says", async (context) => {
    const plan = await context.open.plan({ image: await image(context) });
    assert.deepEqual(plan?.image.exposedPorts, ["8080/tcp"]);
    assert.deepEqual(plan?.image.labels, { maker: "conformance" });
    assert.deepEqual(plan?.process.makes, ["/work/deep", "/srv/data"]);
    assert.deepEqual(plan?.process.stop, { signal: "SIGUSR1", timeoutMs: 10_000 });
  });
});
