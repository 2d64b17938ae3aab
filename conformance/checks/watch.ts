import assert from "node:assert/strict";
import type { Watching, WatchEvent } from "../box.ts";
import { eventually, fails, theme } from "../check.ts";

class Log {
  readonly events: WatchEvent[] = [];
  readonly #done: Promise<void>;

  constructor(watching: Watching) {
    this.#done = (async () => {
      for await (const event of watching.events) this.events.push(event);
    })();
    this.#done.catch(() => undefined);
  }

  async sees(kind: WatchEvent["kind"] | readonly WatchEvent["kind"][], end: string): Promise<void> {
    await eventually(
      `${String(kind)} of ${end}; seen ${this.events.map((e) => `${e.kind} ${e.path.toString()}`).join(", ")}`,
      () => this.events.some((e) => kind.includes(e.kind) && e.path.toString().endsWith(end)),
      5_000,
    );
  }
}

export const watchChecks = theme("watch", "function", (check) => {
  check("create, write, chmod, rename, remove", async ({ box, scratch }) => {
    await using watching = await box.files.watch(scratch);
    const log = new Log(watching);
    await box.run(["sh", "-c", "echo x > new"], { cwd: scratch });
    await log.sees("create", "/new");
    await log.sees("write", "/new");
    await box.files.chmod(`${scratch}/new`, 0o600);
    await log.sees("chmod", "/new");
    await box.files.move(`${scratch}/new`, `${scratch}/moved`);
    await log.sees(["rename", "remove"], "/new");
    await log.sees(["rename", "create"], "/moved");
    await box.files.remove(`${scratch}/moved`);
    await log.sees("remove", "/moved");
  });

  check("recursive: directories made later are watched too", async ({ box, scratch }) => {
    await box.files.makeDirectory(`${scratch}/old/deep`, { parents: true });
    await using watching = await box.files.watch(scratch, { recursive: true });
    const log = new Log(watching);
    await box.run(["sh", "-c", "echo x > old/deep/inner; mkdir -p a/b/c; echo y > a/b/c/quick"], { cwd: scratch });
    await log.sees("create", "/old/deep/inner");
    await log.sees("create", "/a/b/c/quick");
    await box.run(["sh", "-c", "echo z > a/b/c/late; rm -r a"], { cwd: scratch });
    await log.sees("create", "/a/b/c/late");
    await log.sees("remove", "/a/b/c/late");
    await log.sees("remove", "/a");
  });

  check("not recursive: silent about what is deeper", async ({ box, scratch }) => {
    await box.files.makeDirectory(`${scratch}/d`);
    await using watching = await box.files.watch(scratch);
    const log = new Log(watching);
    await box.run(["sh", "-c", "echo x > d/deep; echo y > shallow"], { cwd: scratch });
    await log.sees("create", "/shallow");
    assert.equal(
      log.events.some((e) => e.path.toString().endsWith("/deep")),
      false,
    );
  });

  check("2,000 files at once: all told, or the loss told", async ({ box, scratch }) => {
    await using watching = await box.files.watch(scratch, { recursive: true });
    const log = new Log(watching);
    await box.run(["python3", "-c", `[open('${scratch}/f%d' % i, 'w').close() for i in range(2000)]`]);
    await eventually("every file or an overflow", () => {
      const created = new Set(log.events.filter((e) => e.kind === "create").map((e) => e.path.toString()));
      return created.size === 2000 || log.events.some((e) => e.kind === "overflow");
    });
  });

  check("a watch that is closed ends its events, and others go on", async ({ box, scratch }) => {
    const first = await box.files.watch(scratch);
    await using second = await box.files.watch(scratch);
    const log = new Log(second);
    const ended = (async () => {
      for await (const _ of first.events);
    })();
    await first[Symbol.asyncDispose]();
    await Promise.race([
      ended.catch(() => undefined),
      new Promise((_, reject) => setTimeout(() => reject(new Error("events did not end")), 5_000)),
    ]);
    await box.files.write(`${scratch}/f`, "x");
    await log.sees("create", "/f");
  });

  check("what is not there or not allowed cannot be watched", async ({ box, scratch }) => {
    await fails("FILE_NOT_FOUND", () => box.files.watch(`${scratch}/missing`));
    await fails("FILE_PERMISSION", () => box.files.watch("/root"));
  });
});
