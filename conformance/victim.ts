import { targetNamed } from "./targets/index.ts";

/**
 * An engine in a process of its own, to be killed: makes sandboxes with work in them, says where it is, and waits.
 * Usage: victim.ts TARGET RUN_DIRECTORY COUNT
 */
const [name, run, count] = process.argv.slice(2);
if (name === undefined || run === undefined || count === undefined)
  throw new Error("usage: victim.ts TARGET RUN_DIRECTORY COUNT");
const open = await targetNamed(name).open({ run });
const boxes = await Promise.all(Array.from({ length: Number(count) }, () => open.create()));
const work = await Promise.all(boxes.map((box) => box.start(["sh", "-c", "sleep 1000 & setsid sleep 1001 & wait"])));
for (const running of work) {
  running.stdout.resume();
  running.exit.catch(() => undefined);
}
const said = { enginePid: process.pid, keeperPid: open.outside?.keeperPid(), ids: boxes.map((box) => box.id) };
process.stdout.write(`${JSON.stringify(said)}\n`);
setInterval(() => undefined, 1 << 30);
