import assert from "node:assert/strict";
import type { RunningPty } from "../box.ts";
import { theme, within } from "../check.ts";

/** Reads a terminal until what came matches. */
class Screen {
  readonly #pty: RunningPty;
  text = "";
  #wake: () => void = () => undefined;

  constructor(pty: RunningPty) {
    this.#pty = pty;
    pty.output.on("data", (part: Buffer) => {
      this.text += part.toString("latin1");
      this.#wake();
    });
  }

  async until(pattern: RegExp): Promise<void> {
    const found = (async () => {
      while (!pattern.test(this.text)) await new Promise<void>((resolve) => (this.#wake = resolve));
    })();
    await within(`${String(pattern)} on the terminal, which shows ${JSON.stringify(this.text)}`, 15_000, found).catch(
      (error: unknown) => {
        throw new Error(`${(error as Error).message}; now ${JSON.stringify(this.text)}`);
      },
    );
  }

  type(text: string): void {
    this.#pty.input.write(text);
  }
}

export const ptyChecks = theme("pty", "function", (check) => {
  check("all three streams are one terminal of the size asked for", async ({ box }) => {
    const pty = await box.pty(["sh", "-c", "test -t 0 && test -t 1 && test -t 2 && tty && stty size"], {
      rows: 33,
      cols: 101,
    });
    const screen = new Screen(pty);
    assert.deepEqual(await within("exit", 15_000, pty.exit), { code: 0, signal: null });
    await screen.until(/\/dev\/pts\/\d+\r\n33 101\r\n/);
  });

  check(
    "it is the controlling terminal, and the program leads its session",
    async ({ box }) => {
      const pty = await box.pty(["sh", "-c", "ps -o pid=,sid=,tpgid= -p $$ | tr -s ' '"], { rows: 24, cols: 80 });
      const screen = new Screen(pty);
      await pty.exit;
      await screen.until(/\d+ \d+ -?\d+/);
      const ids = /(\d+) (\d+) (-?\d+)/.exec(screen.text);
      assert.ok(ids, screen.text);
      assert.deepEqual([ids[2], ids[3]], [ids[1], ids[1]]);
    },
    { notFor: (t) => (t.traits.level === "gvisor" ? "its /proc does not show the foreground group" : null) },
  );

  check(
    "/dev/tty is the terminal",
    async ({ box }) => {
      const pty = await box.pty(["sh", "-c", "echo hello > /dev/tty"], { rows: 24, cols: 80 });
      const screen = new Screen(pty);
      await pty.exit;
      await screen.until(/hello\r\n/);
    },
    { notFor: (t) => (t.traits.level === "gvisor" ? "runsc answers EIO to whoever opens /dev/tty" : null) },
  );

  check("resize reaches the program as SIGWINCH and as size", async ({ box }) => {
    const pty = await box.pty(["bash", "-c", "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done"], {
      rows: 24,
      cols: 80,
    });
    const screen = new Screen(pty);
    await screen.until(/ready/);
    await pty.resize(50, 132);
    await screen.until(/50 132/);
    // A shell takes an interrupt for its child's when one is running just then: one may not be enough.
    const again = setInterval(() => screen.type("\x03"), 100);
    await within("end by ctrl-c", 10_000, pty.exit).finally(() => clearInterval(again));
  });

  check("ctrl-c interrupts the foreground program, the shell lives on", async ({ box }) => {
    const pty = await box.pty(["bash", "--norc", "-i"], { rows: 24, cols: 80, env: { PS1: "P> " } });
    const screen = new Screen(pty);
    await screen.until(/P> /);
    screen.type("sleep 60; echo not-$((1+1))\n");
    await new Promise((resolve) => setTimeout(resolve, 500));
    screen.type("\x03");
    screen.type("echo alive-$((40+2))\n");
    await screen.until(/alive-42/);
    assert.doesNotMatch(screen.text, /not-2/);
    screen.type("exit 7\n");
    assert.deepEqual(await within("exit", 10_000, pty.exit), { code: 7, signal: null });
  });

  check("end of input is end-of-transmission", async ({ box }) => {
    const pty = await box.pty(["cat"], { rows: 24, cols: 80 });
    const screen = new Screen(pty);
    screen.type("typed\n");
    await screen.until(/typed\r\ntyped\r\n/);
    pty.input.end();
    assert.deepEqual(await within("exit", 10_000, pty.exit), { code: 0, signal: null });
  });

  check("TERM is set, echo is on, control characters are shown", async ({ box }) => {
    const pty = await box.pty(["sh", "-c", "echo TERM=$TERM; stty -a"], { rows: 24, cols: 80 });
    const screen = new Screen(pty);
    await pty.exit;
    await screen.until(/TERM=\w/);
    await screen.until(/[^-]echo\b/);
    await screen.until(/isig/);
  });

  check("5 MB through a terminal lose nothing", async ({ box }) => {
    const pty = await box.pty(["sh", "-c", "stty raw -echo; head -c 5000000 /dev/zero | tr '\\0' x"], {
      rows: 24,
      cols: 80,
    });
    let bytes = 0;
    pty.output.on("data", (part: Buffer) => (bytes += part.length));
    const ended = new Promise((resolve) => pty.output.on("end", resolve));
    await within("exit", 30_000, Promise.all([pty.exit, ended]));
    assert.equal(bytes, 5_000_000);
  });
});
